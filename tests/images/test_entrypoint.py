"""docker-entrypoint.sh with a scripted CLI in place of the real ones: what it makes of its
arguments and environment. What the real CLIs make of that is shown by chain.py."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

ENTRYPOINT = Path(__file__).resolve().parents[2] / "codex.docker" / "docker-entrypoint.sh"
CLIS = ("codex", "claude", "gemini", "opencode", "qwen")

# Writes what it was given into the file REPORT, says "answer" and exits 7.
FAKE_CLI = """\
#!{PYTHON} -I
import json, os, pathlib, sys
home = pathlib.Path(os.environ["HOME"])
report = {
    "argv": sys.argv[1:],
    "pid": os.getpid(),
    "env": dict(os.environ),
    "cwd": os.getcwd(),
    "work": os.listdir("."),
    "stdin": sys.stdin.buffer.read().decode("latin-1"),
    "files": {str(f.relative_to(home)): f.read_text() for f in home.rglob("*") if f.is_file()},
}
pathlib.Path({REPORT}).write_text(json.dumps(report))
print("answer")
sys.exit(7)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    pid: int
    stdout: bytes
    stderr: str
    report: dict[str, Any]


class Host:
    """A host with fake CLIs on the PATH and a user whose own files must stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "runs" / "run"
        self.home = folder / "home"
        self.tmp = folder / "tmp"
        self._bin = folder / "bin"
        self._report = folder / "report.json"
        for made in (self.home, self.tmp, self._bin):
            made.mkdir()
        for cli in CLIS:
            fake = self._bin / cli
            text = FAKE_CLI.replace("{REPORT}", repr(str(self._report)))
            fake.write_text(text.replace("{PYTHON}", sys.executable))
            fake.chmod(0o755)
        self.env = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "CODEX_HOME": str(self.home / ".codex"),
            "ANTHROPIC_API_KEY": "the-users-own",
            "CODEX_SERVE_RUN_DIR": str(self.run_dir),
            "LITELLM_BASE_URL": "http://litellm:4000/v1/",
            "LITELLM_API_KEY": "sk-secret",
        }

    def run(
        self,
        *args: str,
        stdin: bytes = b"the prompt",
        shell: str = "sh",
        given: Mapping[str, str] = MappingProxyType({}),
        **env: str | None,
    ) -> Ran:
        """Run the entrypoint, with ``shell`` for its ``sh``.

        ``given`` and ``env`` are set; an ``env`` of None takes that variable away.
        """
        merged = {name: value for name, value in (self.env | env).items() if value is not None}
        merged |= given
        program = shutil.which(shell)
        assert program is not None
        with subprocess.Popen(
            ["sh", str(ENTRYPOINT), *args],
            executable=program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=merged,
        ) as process:
            stdout, stderr = process.communicate(stdin, timeout=20)
        return Ran(process.returncode, process.pid, stdout, stderr.decode(), self.report())

    def report(self) -> dict[str, Any]:
        """Return what the last fake CLI was given; nothing if none has run."""
        return json.loads(self._report.read_text()) if self._report.exists() else {}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


HEADLESS = {
    "codex": "exec --skip-git-repo-check --ephemeral --color never --model m -",
    "claude": "-p --no-session-persistence --model m",
    "gemini": "--model m",
    "opencode": "run --model litellm/m",
    "qwen": "--model m",
}


@pytest.mark.parametrize("model", [("--model", "m"), ("--model=m",), ("-m", "m")])
@pytest.mark.parametrize("cli", CLIS)
def test_a_model_alone_gives_the_headless_form(
    host: Host, cli: str, model: tuple[str, ...]
) -> None:
    ran = host.run(cli, *model)
    assert ran.report["argv"] == HEADLESS[cli].split()
    assert ran.stdout == b"answer\n"
    assert ran.stderr == ""
    assert ran.code == 7


@pytest.mark.parametrize("cli", CLIS)
def test_litellm_model_stands_in_for_the_argument(host: Host, cli: str) -> None:
    assert host.run(cli, LITELLM_MODEL="m").report["argv"] == HEADLESS[cli].split()


@pytest.mark.parametrize("cli", CLIS)
def test_auto_is_no_choice(host: Host, cli: str) -> None:
    ran = host.run(cli, "--model", "auto", LITELLM_MODEL="m")
    assert ran.report["argv"] == HEADLESS[cli].split()


@pytest.mark.parametrize("cli", [cli for cli in CLIS if cli != "opencode"])
def test_without_a_model_no_model_flag_is_given(host: Host, cli: str) -> None:
    ran = host.run(cli, LITELLM_MODEL="auto")
    assert (
        ran.report["argv"]
        == HEADLESS[cli].replace(" --model m", "").replace("--model m", "").split()
    )
    assert "ANTHROPIC_MODEL" not in ran.report["env"]
    assert "OPENAI_MODEL" not in ran.report["env"]
    assert "model =" not in ran.report["files"].get(".codex/config.toml", "")


def test_an_argument_wins_over_litellm_model_except_for_opencode(
    host: Host, tmp_path: Path
) -> None:
    assert host.run("gemini", "-m", "mine", LITELLM_MODEL="given").report["argv"] == [
        "--model",
        "mine",
    ]
    other = str(tmp_path / "other")
    ran = host.run("opencode", "-m", "mine", LITELLM_MODEL="given", CODEX_SERVE_RUN_DIR=other)
    assert ran.report["argv"] == ["run", "--model", "litellm/given"]


def test_opencode_without_a_model_says_what_to_do(host: Host) -> None:
    ran = host.run("opencode")
    assert ran.code == 78
    assert "LITELLM_MODEL" in ran.stderr


def test_other_arguments_are_given_as_they_are_without_the_model(host: Host) -> None:
    ran = host.run("codex", "exec", "-m", "m", "two words", "", "--", "-m", "kept", "$(id)", "*")
    assert ran.report["argv"] == ["exec", "two words", "", "--", "-m", "kept", "$(id)", "*"]
    assert ran.report["files"][".codex/config.toml"].startswith('model = "m"\n')


def test_arguments_leave_stdin_alone(host: Host) -> None:
    assert host.run("claude", "-p", stdin=b"/help").report["stdin"] == "/help"


@pytest.mark.parametrize("cli", CLIS)
def test_only_the_prompts_of_claude_and_qwen_get_a_newline_in_front(host: Host, cli: str) -> None:
    before = "\n" if cli in ("claude", "qwen") else ""
    ran = host.run(cli, "--model", "m", stdin=b"/help\x00\xff\r\n\n")
    assert ran.report["stdin"] == before + "/help\x00\xff\r\n\n"


@pytest.mark.parametrize("cli", CLIS)
def test_an_empty_prompt_stays_empty(host: Host, cli: str) -> None:
    assert host.run(cli, "--model", "m", stdin=b"").report["stdin"] == ""


def test_gemini_gets_no_prompt_that_it_would_answer_with_an_empty_success(host: Host) -> None:
    ran = host.run("gemini", stdin=b"x" * 4_000_001)
    assert (ran.code, ran.stdout, ran.report) == (65, b"", {})
    assert "4,000,000" in ran.stderr
    assert not (host.run_dir / "prompt").exists()


def test_gemini_gets_a_prompt_of_four_million_bytes(host: Host) -> None:
    assert len(host.run("gemini", stdin=b"x" * 4_000_000).report["stdin"]) == 4_000_000


def test_the_cli_starts_when_the_prompt_is_complete(host: Host) -> None:
    """gemini takes half a second of silence for an empty prompt."""
    command = [str(ENTRYPOINT), "gemini"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=host.env) as process:
        assert process.stdin is not None
        process.stdin.write(b"half")
        process.stdin.flush()
        deadline = time.monotonic() + 20
        prompt = host.run_dir / "prompt"
        while not prompt.exists() or prompt.read_bytes() != b"half":
            assert time.monotonic() < deadline
        assert host.report() == {}
        process.communicate(b" a prompt", timeout=20)
    assert host.report()["stdin"] == "half a prompt"


def test_a_prompt_of_eight_megabytes_arrives_whole(host: Host) -> None:
    prompt = b"0123456789abcdef" * (1 << 19)
    assert host.run("claude", stdin=prompt).report["stdin"] == "\n" + prompt.decode()


@pytest.mark.parametrize("cli", CLIS)
def test_the_cli_takes_the_place_of_the_entrypoint(host: Host, cli: str) -> None:
    ran = host.run(cli, "--model", "m")
    assert ran.report["pid"] == ran.pid


@pytest.mark.parametrize("cli", CLIS)
def test_everything_is_written_into_the_runs_own_folder(host: Host, cli: str) -> None:
    ran = host.run(cli, "--model", "m")
    assert ran.report["work"] == []
    assert ran.report["cwd"] == str(host.run_dir / "work")
    assert ran.report["env"]["HOME"] == str(host.run_dir / "home")
    assert ran.report["env"]["TMPDIR"] == str(host.run_dir / "tmp")
    assert not {"XDG_CONFIG_HOME", "CODEX_HOME", "ANTHROPIC_API_KEY"} & set(ran.report["env"])
    assert list(host.home.iterdir()) == []
    assert list(host.tmp.iterdir()) == []
    assert sorted(path.name for path in host.run_dir.iterdir()) == ["home", "tmp", "work"]
    for path in (host.run_dir, *host.run_dir.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_without_a_run_folder_a_new_one_is_made_below_tmpdir(host: Host) -> None:
    ran = host.run("codex", CODEX_SERVE_RUN_DIR=None)
    (made,) = host.tmp.iterdir()
    assert ran.report["cwd"] == str(made / "work")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_run_folder_is_never_used_twice(host: Host) -> None:
    host.run("codex")
    ran = host.run("codex")
    assert ran.code == 73
    assert "must be one that can be made and that no other run used" in ran.stderr


def test_a_run_folder_that_cannot_be_made_stops_the_run(host: Host) -> None:
    ran = host.run("codex", CODEX_SERVE_RUN_DIR="/dev/null/run")
    assert (ran.code, ran.stdout, ran.report) == (73, b"", {})
    assert "/dev/null/run must be one that can be made" in ran.stderr


@pytest.mark.parametrize("cli", CLIS)
def test_the_key_is_in_no_argument_and_no_file(host: Host, cli: str) -> None:
    report = host.run(cli, "--model", "m").report
    assert "sk-secret" not in json.dumps([report["argv"], report["files"]])
    assert "sk-secret" in report["env"].values()


BASE_IN = {
    "codex": ('base_url = "http://litellm:4000/v1"', None),
    "claude": ("http://litellm:4000", "ANTHROPIC_BASE_URL"),
    "gemini": ("http://litellm:4000", "GOOGLE_GEMINI_BASE_URL"),
    "opencode": ('"baseURL": "http://litellm:4000/v1"', None),
    "qwen": ("http://litellm:4000/v1", "OPENAI_BASE_URL"),
}


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "//v1//"])
@pytest.mark.parametrize("cli", CLIS)
def test_the_proxys_address_reaches_the_cli_in_its_own_form(
    host: Host, cli: str, tail: str
) -> None:
    report = host.run(cli, "-m", "m", LITELLM_BASE_URL="http://litellm:4000" + tail).report
    wanted, variable = BASE_IN[cli]
    if variable:
        assert report["env"][variable] == wanted
    else:
        assert wanted in "".join(report["files"].values())


@pytest.mark.parametrize("cli", ["gemini", "opencode", "qwen"])
def test_json_settings_parse(host: Host, cli: str) -> None:
    files = host.run(cli, "-m", "vendor/model-1.5:latest").report["files"]
    for text in files.values():
        json.loads(text)
    assert files


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", "a\nb", "{file:/etc/passwd}", "-x", "a b", "$(id)"]
)
def test_a_model_that_could_mean_something_to_a_settings_file_is_refused(
    host: Host, name: str
) -> None:
    ran = host.run("opencode", "--model", name)
    assert ran.code == 64
    assert ran.report == {}


@pytest.mark.parametrize(
    "url", [None, "", "/", "litellm:4000", 'http://a"b', "http://a b", "file:///x"]
)
def test_a_bad_address_is_refused_with_the_variables_name(host: Host, url: str | None) -> None:
    ran = host.run("codex", LITELLM_BASE_URL=url)
    assert ran.code == 78
    assert "LITELLM_BASE_URL" in ran.stderr
    assert ran.stdout == b""


@pytest.mark.parametrize("cli", CLIS)
def test_version_needs_no_proxy(host: Host, cli: str) -> None:
    ran = host.run(cli, "--version", LITELLM_BASE_URL=None, LITELLM_API_KEY=None)
    assert ran.report["argv"] == ["--version"]


def test_an_unknown_cli_is_named_with_the_known_ones(host: Host) -> None:
    ran = host.run("rm", "-rf")
    assert (ran.code, ran.stdout) == (127, b"")
    assert all(cli in ran.stderr for cli in ("rm", *CLIS))


def test_a_cli_that_is_not_installed_is_127(host: Host) -> None:
    ran = host.run("codex", PATH="/usr/bin:/bin")
    assert (ran.code, ran.report) == (127, {})
    assert "not installed" in ran.stderr


@pytest.mark.parametrize("args", [(), ("codex", "--model"), ("codex", "-m")])
def test_missing_arguments_are_64(host: Host, args: tuple[str, ...]) -> None:
    assert host.run(*args).code == 64


def test_claude_may_not_read_files_that_a_prompt_mentions(host: Host) -> None:
    assert host.run("claude").report["env"]["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] == "1"


# What took a prompt past the proxy, or to another model, when whoever started us had set it.
SWITCHES = (
    *("CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_ANTHROPIC_AWS"),
    *("CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD", "ANTHROPIC_UNIX_SOCKET"),
    *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_OAUTH_TOKEN"),
    *("ANTHROPIC_API_KEY", "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"),
    *("ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL"),
    *("ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_BASE_URL"),
    *("CLAUDE_CONFIG_DIR", "OPENAI_API_KEY", "OPENAI_MODEL", "OPENAI_BASE_URL", "CODEX_API_KEY"),
    *("CODEX_HOME", "GEMINI_API_KEY", "GEMINI_MODEL", "GEMINI_CLI_HOME", "GOOGLE_API_KEY"),
    *("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_GCA", "GOOGLE_GEMINI_BASE_URL"),
    *("GOOGLE_CLOUD_PROJECT", "CODE_ASSIST_ENDPOINT", "OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR"),
    *("OPENCODE_CONFIG_CONTENT", "OPENCODE_API_KEY", "QWEN_HOME", "QWEN_MODEL"),
    *("DASHSCOPE_API_KEY", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "AZURE_OPENAI_API_KEY"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "NODE_OPTIONS", "A_SWITCH_OF_A_CLI_TO_COME"),
)
SHELLS = ("sh", "bash")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("cli", CLIS)
def test_nothing_that_was_not_named_gets_through(host: Host, cli: str, shell: str) -> None:
    given = dict.fromkeys(SWITCHES, "inherited")
    # opencode has no model of its own.
    seen = host.run(cli, shell=shell, given=given, LITELLM_MODEL="m" * (cli == "opencode")).report
    assert {name for name, value in seen["env"].items() if value == "inherited"} == set()


SET_FOR = {
    "codex": "",
    "claude": (
        "ANTHROPIC_AUTH_TOKEN ANTHROPIC_BASE_URL ANTHROPIC_DEFAULT_HAIKU_MODEL ANTHROPIC_MODEL "
        "CLAUDE_CODE_DISABLE_FILE_MENTIONS CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC "
        "CLAUDE_CODE_MAX_RETRIES DISABLE_AUTOUPDATER DISABLE_ERROR_REPORTING DISABLE_TELEMETRY"
    ),
    "gemini": "GEMINI_API_KEY GEMINI_CLI_NO_RELAUNCH GEMINI_MODEL GOOGLE_GEMINI_BASE_URL",
    "opencode": (
        "OPENCODE_DISABLE_AUTOUPDATE OPENCODE_DISABLE_DEFAULT_PLUGINS "
        "OPENCODE_DISABLE_LSP_DOWNLOAD OPENCODE_DISABLE_MODELS_FETCH OPENCODE_DISABLE_SHARE"
    ),
    "qwen": "OPENAI_API_KEY OPENAI_BASE_URL OPENAI_MODEL QWEN_CODE_NO_RELAUNCH",
}
FOR_EVERY_PROGRAM = {
    "TZ": "Asia/Tokyo",
    "LANG": "C",
    "LC_ALL": "C",
    "TERM": "dumb",
    "USER": "u",
    "LOGNAME": "u",
    "SHELL": "/bin/sh",
    "HTTPS_PROXY": "http://p",
    "no_proxy": "litellm",
    "NODE_EXTRA_CA_CERTS": "/ca",
    "SSL_CERT_FILE": "/ca",
    "CLI_PROVIDER_NAME": "one",
}


@pytest.mark.parametrize("cli", CLIS)
def test_the_whole_environment_of_each_cli(host: Host, cli: str) -> None:
    seen = host.run(cli, given=FOR_EVERY_PROGRAM, LITELLM_MODEL="m").report["env"]
    assert FOR_EVERY_PROGRAM.items() <= seen.items()
    ours = {"LITELLM_BASE_URL", "LITELLM_API_KEY", "LITELLM_MODEL"}
    expected = {"PATH", "HOME", "TMPDIR", *FOR_EVERY_PROGRAM, *ours, *SET_FOR[cli].split()}
    assert set(seen) - {"PWD"} == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_named_gets_through_as_it_is(host: Host, shell: str) -> None:
    given = {
        "GIT_AUTHOR_NAME": 'Zoë "O\'Neil" $HOME `id`',
        "LINES": "one\n\nOPENAI_MODEL=two\n",
        "EMPTY": "",
        "ANTHROPIC_SMALL_FAST_MODEL": "the operator's",
        # So are variables of the script called, but for a _ in front.
        **{name: name for name in ("cli", "model", "prompt", "base", "run_dir", "names", "pass")},
    }
    unnamed = {"GIT_AUTHOR": "x", "NAME": "x", "MPTY": "x"}
    ran = host.run("claude", shell=shell, given={**given, **unnamed}, CLI_ENV_PASS=",".join(given))
    assert ran.report["env"].items() >= given.items()
    assert not ran.report["env"].keys() & {*unnamed, "OPENAI_MODEL", "CLI_ENV_PASS"}
    assert ran.report["stdin"] == "\nthe prompt"


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("shell", SHELLS)
def test_names_that_a_shell_cannot_unset_do_not_get_through(
    host: Host, tmp_path: Path, shell: str, named: bool
) -> None:
    # No identifiers, which bash hands on and dash does not; and names with a _ in front.
    never = dict.fromkeys(
        ("a.b", "two words", "1ST", "é", "-u", "*", "PATH x", "x,y", "_", "_model", "_cli"), "1"
    )
    never |= {"BASH_FUNC_x%%": "() { :; }", f"x[$(touch {tmp_path}/executed)]": "1"}
    # What one of the shells has for itself, part of it read-only.
    special = dict.fromkeys(("UID", "PPID", "OPTIND", "IFS", "PS4", "OLDPWD"), "1")
    given = {**never, **special, "SHELLOPTS": "posix", "BASHOPTS": "cmdhist"}
    names = ",".join(never) if named else ""
    ran = host.run("codex", shell=shell, given=given, CLI_ENV_PASS=names)
    assert (ran.code, ran.stderr) == (7, "")
    assert not ran.report["env"].keys() & given.keys()
    assert ran.report["argv"] == HEADLESS["codex"].replace("--model m ", "").split()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_name_with_a_line_break_never_gets_through(host: Host, shell: str) -> None:
    ran = host.run("codex", shell=shell, given={"A\nLANG": "x"})
    if shell == "bash":
        assert (ran.code, ran.report) == (78, {})
        assert "line break" in ran.stderr
    assert "A\nLANG" not in ran.report.get("env", {})


def test_no_cli_starts_where_the_environment_cannot_be_read(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "few"
    path.mkdir()
    for name in ("mkdir", "cut", "tr", "mktemp", "sh"):
        (path / name).symlink_to(str(shutil.which(name)))
    ran = host.run("codex", PATH=f"{host.env['PATH'].partition(':')[0]}:{path}")
    assert (ran.code, ran.report) == (78, {})
    assert "env" in ran.stderr
