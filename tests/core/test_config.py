"""Settings: each variable, its default, its error."""

from dataclasses import replace

import pytest

from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError


def read(**environ: str) -> Config:
    return Config.from_environ(environ)


def test_defaults() -> None:
    assert read() == Config()
    assert (read().host, read().port) == ("0.0.0.0", 8000)
    assert (read().models, read().clis) == (("auto",), ("codex",))
    assert read().max_request_bytes == 16 * 1024 * 1024


def test_an_empty_variable_means_its_default() -> None:
    names = [
        "HOST", "PORT", "MODEL_LIST", "CLI_LIST", "RUN_RESPONSE_TIMEOUT_SECONDS",
        "RUN_MAX_REQUEST_BYTES", "LOG_LEVEL",
    ]  # fmt: skip
    assert Config.from_environ(dict.fromkeys(names, "")) == Config()
    assert Config.from_environ(dict.fromkeys(names[2:4], " , ,")) == Config()


def test_lists_are_trimmed_and_keep_the_order_of_first_mention() -> None:
    config = read(
        CLI_LIST=" gemini ,codex,, gemini,codex ", MODEL_LIST="b,a,b", CLI_ENV_PASS="B, a_1,B"
    )
    assert config.env_pass == ("B", "a_1")
    assert config.clis == ("gemini", "codex")
    assert config.models == ("b", "a")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300", 300.0), (" 0.5 ", 0.5), ("", None), (" ", None), ("0", None), ("-1", None)],
)
def test_run_timeout(text: str, seconds: float | None) -> None:
    config = read(RUN_RESPONSE_TIMEOUT_SECONDS=text)
    assert config.run_timeout_s == seconds
    assert config.warnings == ()


@pytest.mark.parametrize("text", ["soon", "5m", "nan", "inf", "1e300"])
def test_an_invalid_run_timeout_disables_it_with_a_warning(text: str) -> None:
    config = read(RUN_RESPONSE_TIMEOUT_SECONDS=text)
    assert config.run_timeout_s is None
    (warning,) = config.warnings
    assert "RUN_RESPONSE_TIMEOUT_SECONDS" in warning
    assert repr(text) in warning


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("RUN_MAX_REQUEST_BYTES", "0"),
        ("RUN_MAX_REQUEST_BYTES", "16M"),
        ("RUN_KILL_GRACE_SECONDS", "-1"),
        ("SHUTDOWN_GRACE_SECONDS", "nan"),
        ("WRITE_TIMEOUT_SECONDS", "long"),
        ("LOG_LEVEL", "loud"),
        ("CLI_ENV_PASS", "GIT-NAME"),
        ("CLI_ENV_PASS", "A B"),
        ("CLI_ENV_PASS", "_A"),
    ],
)
def test_a_value_that_cannot_work_is_one_clear_sentence(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{variable} must be .*, not '{text}'$"):
        read(**{variable: text})


def test_the_command_line_comes_before_the_environment() -> None:
    config = Config.from_environ({"HOST": "::", "PORT": "1"}, host="::1", port="2")
    assert (config.host, config.port) == ("::1", 2)
    with pytest.raises(ConfigError, match=r"^--port must be"):
        Config.from_environ({}, port="x")


def test_demo_is_served_alone_or_beside_what_is_named() -> None:
    assert Config.from_environ({}, demo=True) == replace(Config(), demo=True, clis=("demo",))
    assert Config.from_environ({"CLI_LIST": "codex"}, demo=True).clis == ("demo", "codex")
