"""Docker mode: what a container gets, and what its client is told."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_serve.backends.docker.command import DockerClient, DockerLauncher, split_model
from codex_serve.backends.docker.engine import Container, abandoned, parse_listing
from codex_serve.backends.docker.leases import Leases
from codex_serve.core.config import Config
from codex_serve.core.errors import ApiError
from codex_serve.core.execution import RunInfo
from codex_serve.core.request import RunRequest
from codex_serve.processes.command import FILE_PATH, Launch, Removal
from conftest import StartServer
from engine import BASE_IMAGE, NEEDS_ENGINE, Mark, docker
from process_tree import marked
from serving import Server, exit_code, refused_start, text_of

RUN = RunInfo("00ff", 1000.0)
SERVER_ENVIRON = {"PATH": "/bin", "HOME": "/home/s", "https_proxy": "http://p", "SECRET": "s"}


CLIENTS_OWN = (
    *("PATH", "HOME", "DOCKER_HOST", "DOCKER_", "DOCKER_CONFIG", "HTTPS_PROXY", "no_proxy"),
    *("LD_PRELOAD", "SSL_CERT_FILE", "SSH_AUTH_SOCK", "GODEBUG", "BASH_ENV", "ENV"),
    *("BASH_FUNC_docker%%", "SHELLOPTS", "PYTHONPATH", "PERL5OPT"),
)
"""Variables that a docker client reads, its loader, or where it is a script, its interpreter."""

CARRIED = {
    "A": "b",
    "SPACED": " b\tc ",
    "EMPTY": "",
    "EQUAL": "=a=b=",
    "HASH": "#a",
    "QUOTED": "\"a'",
    "CR": "a\rb",
    "SEPARATORS": "\u2028\x85\x0b",
    "UMLAUT": "größe",
    "BOM": "\ufeff",
    "$X": "$Y",
    "-e": "x",
    "a.b": "x",
    "*": "x",
    "GRÖSSE": "x",
    "\\n": "\\n",
    "LONG": "x" * 65_530,
}
NOT_CARRIED = {
    "LINES": "a\nb",
    "END": "a\n",
    "CR_END": "a\r",
    "LONG": "x" * 65_531,
    "LÄNGER": "ä" * 33_000,
    "#A": "x",
    " A": "x",
    "A B": "x",
    "A\tB": "x",
    "\u2003A": "x",
    "\ufeffA": "x",
    "A\nB": "x",
}
"""Variables that the client's reading of a file would change, or refuse."""


def launch(request: dict[str, Any], **environ: str) -> Launch:
    environ = {"CODEX_DOCKER_IMAGE": "img", **environ}
    config = Config.from_environ(environ)
    assert config.docker is not None
    launcher = DockerLauncher(
        docker=config.docker,
        client=DockerClient("/bin/docker", SERVER_ENVIRON),
        inherited=config.litellm,
        models=config.models,
        instance="ab12",
        timeout_s=config.run_timeout_s,
    )
    return launcher(RunRequest(**request), RUN)


def test_a_run_is_a_docker_run_with_a_name_and_labels_and_limits() -> None:
    found = launch(
        {"cli": "codex", "args": ("--privileged", "-v/:/host")}, RUN_RESPONSE_TIMEOUT_SECONDS="300"
    )
    assert found.argv[:2] == ("/bin/docker", "run")
    assert found.removal == Removal(
        ("container", "/bin/docker", "codex-serve-ab12-00ff"), awaited=True
    )
    options, command = (
        found.argv[2 : found.argv.index("img")],
        found.argv[found.argv.index("img") :],
    )
    assert command == ("img", "codex", "--privileged", "-v/:/host")
    assert {
        *("--rm", "-i", "--init", "--pull=never", "--name=codex-serve-ab12-00ff"),
        *("--label=codex-serve.instance=ab12", "--label=codex-serve.run=00ff"),
        *("--label=codex-serve.expires=4900", "--memory=2g", "--pids-limit=512", "--cpus=1"),
        *("--user=1000:1000", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges", "--log-driver=none"),
    } <= set(options)


def test_a_run_without_a_limit_never_expires() -> None:
    assert "--label=codex-serve.expires=never" in launch({"cli": "codex"}).argv


def test_the_operators_arguments_come_after_the_defaults_and_before_what_must_be() -> None:
    argv = launch(
        {"cli": "codex"},
        DOCKER_RUN_ARGS="--memory=9g --detach -e 'GREETING=hello world'",
        DOCKER_READ_ONLY="false",
        DOCKER_NETWORK="lab",
        DOCKER_PULL="missing",
        DOCKER_MEMORY="512M",
        DOCKER_CPUS="0.5",
        DOCKER_PIDS="64",
        DOCKER_USER="0",
    ).argv
    assert argv.index("--memory=512m") < argv.index("--memory=9g") < argv.index("--detach=false")
    assert argv[argv.index("-e") + 1] == "GREETING=hello world"
    assert {"--network=lab", "--pull=missing", "--cpus=0.5", "--pids-limit=64", "--user=0"} <= set(
        argv
    )
    assert "--read-only" not in argv


OURS = {"CLI_ENV_PASS": "", "CLI_PROVIDER_NAME": "codex"}
"""What every container gets, and no request sets."""


def lines(found: Launch) -> dict[str, str]:
    """What is in the file that the client reads."""
    if found.file is None:
        assert not [arg for arg in found.argv if arg.startswith("--env-file=")]
        return {}
    assert found.argv[2] == f"--env-file={FILE_PATH}"
    text = found.file.decode()
    return dict(line.split("=", 1) for line in text.removesuffix("\n").split("\n"))


def by_name(found: Launch) -> dict[str, str]:
    """What the client takes from its own environment."""
    names = [arg.removeprefix("--env=") for arg in found.argv if arg.startswith("--env=")]
    return {name: found.env[name] for name in names if "=" not in name}


def test_no_value_is_on_the_command_line_and_a_request_names_nothing_for_the_client() -> None:
    found = launch(
        {
            "cli": "codex",
            "env": {"LITELLM_API_KEY": "theirs", "CLI_PROVIDER_NAME": "no", "A": "b c"},
        },
        LITELLM_API_KEY="ours",
        LITELLM_BASE_URL="http://proxy",
    )
    assert lines(found) == {"A": "b c"}
    assert by_name(found) == {
        "CLI_ENV_PASS": "LITELLM_API_KEY,CLI_PROVIDER_NAME,A",
        "CLI_PROVIDER_NAME": "codex",
        "LITELLM_API_KEY": "theirs",
        "LITELLM_BASE_URL": "http://proxy",
    }
    assert found.env == {**SERVER_ENVIRON, **by_name(found)}
    assert not any("theirs" in arg or "ours" in arg or "b c" in arg for arg in found.argv)


@pytest.mark.parametrize("name", CLIENTS_OWN)
def test_what_the_client_would_obey_does_not_pass_through_its_environment(name: str) -> None:
    found = launch({"cli": "codex", "env": {name: "x y"}})
    assert lines(found) == {name: "x y"}
    assert found.env.keys() - {"LITELLM_API_KEY"} == {*SERVER_ENVIRON, *OURS}
    assert found.env.items() >= SERVER_ENVIRON.items()


@pytest.mark.parametrize("value", ["a\nb", "a\r", "x" * 65_535])
@pytest.mark.parametrize("name", CLIENTS_OWN)
def test_what_the_client_would_obey_and_a_file_cannot_carry_is_refused(
    name: str, value: str
) -> None:
    with pytest.raises(ApiError) as caught:
        launch({"cli": "codex", "env": {name: value}})
    assert caught.value.status == 422
    assert repr(name) in caught.value.detail
    assert value not in caught.value.detail


@pytest.mark.parametrize(("name", "value"), CARRIED.items())
def test_what_a_file_carries(name: str, value: str) -> None:
    found = launch({"cli": "codex", "env": {name: value}})
    assert lines(found) == {name: value}
    assert by_name(found).keys() == OURS.keys()


@pytest.mark.parametrize(("name", "value"), NOT_CARRIED.items())
def test_what_a_file_cannot_carry_passes_by_name(name: str, value: str) -> None:
    found = launch({"cli": "codex", "env": {name: value}})
    assert lines(found) == {}
    assert by_name(found).keys() == {name, *OURS}
    assert found.env[name] == value


def test_what_the_operator_sets_comes_before_a_request_and_behind_it_what_is_ours() -> None:
    """Of variables the client takes the last ``--env``, and any before one in a file."""
    env = {"A": "x\ny", "LITELLM_API_KEY": "theirs"}
    argv = launch({"cli": "codex", "env": env}, DOCKER_RUN_ARGS="--env=A=ours --env=B").argv
    order = [arg for arg in argv if arg.startswith("--env=")]
    assert order[:3] == ["--env=A", "--env=A=ours", "--env=B"]
    assert sorted(order[3:]) == [
        *("--env=CLI_ENV_PASS", "--env=CLI_PROVIDER_NAME", "--env=LITELLM_API_KEY")
    ]


@pytest.mark.parametrize(
    ("args", "model"),
    [
        (("--model", "a"), "a"),
        (("--model=a",), "a"),
        (("-m", "a"), "a"),
        (("-m", "a", "--model", "b"), "b"),
        (("--model", "auto"), "first"),
        ((), "first"),
        (("--", "--model", "a"), "first"),
        (("--model",), "first"),
    ],
)
def test_the_model_is_inferred(args: tuple[str, ...], model: str) -> None:
    found = launch({"cli": "codex", "args": args}, MODEL_LIST="auto,first,second")
    assert by_name(found)["LITELLM_MODEL"] == model
    assert found.argv[found.argv.index("img") + 2 :] == args


def test_there_is_no_model_where_none_is_known() -> None:
    for args in ((), ("--model", "auto")):
        found = launch({"cli": "codex", "args": args}, MODEL_LIST="auto")
        assert "LITELLM_MODEL" not in by_name(found)


def test_a_model_in_env_comes_first() -> None:
    request = {"cli": "codex", "args": ("-m", "a"), "env": {"LITELLM_MODEL": "mine"}}
    assert by_name(launch(request))["LITELLM_MODEL"] == "mine"


def test_opencode_gets_its_model_by_the_variable_only() -> None:
    found = launch({"cli": "opencode", "args": ("--model", "a", "run")})
    assert found.argv[-2:] == ("opencode", "run")
    assert by_name(found)["LITELLM_MODEL"] == "a"


def test_split_model_keeps_the_order_of_the_rest() -> None:
    assert split_model(["a", "-m", "x", "b", "--", "-m", "y"]) == ("x", ("a", "b", "--", "-m", "y"))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DOCKER_PULL", "sometimes"),
        ("DOCKER_MEMORY", "2 gigabytes"),
        ("DOCKER_PIDS", "many"),
        ("DOCKER_PIDS", "-1"),
        ("DOCKER_CPUS", "all"),
        ("DOCKER_READ_ONLY", "maybe"),
        ("DOCKER_RUN_ARGS", "--label='x"),
        ("CODEX_DOCKER_IMAGE", "--privileged"),
        ("RUN_ISOLATION", "pidns"),
        ("CLI_ENTRYPOINT", "/bin/sh"),
        ("DOCKER_LEASE_DIR", "/proc/nowhere"),
    ],
)
def test_a_setting_that_cannot_work_stops_the_start(
    tmp_path: Path, variable: str, text: str
) -> None:
    (tmp_path / "docker").touch(0o755)  # it is looked for, and never run
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "CODEX_DOCKER_IMAGE": "img", variable: text}
    assert variable in refused_start(env=settings)


def test_a_machine_without_the_docker_client_stops_the_start(tmp_path: Path) -> None:
    line = refused_start(env={"CODEX_DOCKER_IMAGE": "img", "PATH": str(tmp_path)})
    assert "'docker'" in line


def test_what_nobody_will_remove() -> None:
    listing = (
        "c1\tdead\t5\nc2\tliving\t5\nc3\tunknown\t5\nc4\tunknown\t50\n"
        "c5\tunknown\tnever\nc6\tunknown\t\nc7\t\t \tx\n"
    )
    leases = Leases(known=frozenset({"dead", "living"}), dead=frozenset({"dead"}))
    containers = parse_listing(listing)
    assert containers[0] == Container("c1", "dead", 5.0)
    assert abandoned(containers, leases, now=10.0) == ["c1", "c3"]


@pytest.fixture
def docker_server(start_server: StartServer, tmp_path: Path) -> Callable[..., Server]:
    def start(**env: str) -> Server:
        settings = {"CODEX_DOCKER_IMAGE": BASE_IMAGE, "DOCKER_PULL": "missing"}
        return start_server({**settings, "DOCKER_LEASE_DIR": str(tmp_path), **env})

    return start


class TestWithAnEngine:
    pytestmark = NEEDS_ENGINE

    def test_a_container_gets_prompt_variables_and_fences(
        self, docker_server: Callable[..., Server]
    ) -> None:
        server = docker_server(LITELLM_API_KEY="sk-ours", LITELLM_BASE_URL="http://proxy")
        code = (
            "import json, os, sys; print(json.dumps([sys.argv[1:], sys.stdin.read(), "
            "dict(os.environ), os.getuid(), os.access('/usr', os.W_OK), os.getpid()]))"
        )
        events = server.run(
            *("python3", "-c", code, "--rm", ""),
            stdin="grüße\n" * 50_000,
            env={"LITELLM_API_KEY": "sk-theirs", "SPACED": " a\nb ", "CLI_PROVIDER_NAME": "x"},
        )
        assert exit_code(events) == 0, events
        args, stdin, environ, uid, writable, pid = json.loads(text_of(events, "stdout"))
        assert args == ["--rm", ""]
        assert stdin == "grüße\n" * 50_000
        assert environ["LITELLM_API_KEY"] == "sk-theirs"
        assert environ["LITELLM_BASE_URL"] == "http://proxy"
        assert environ["SPACED"] == " a\nb "
        assert environ["CLI_PROVIDER_NAME"] == "python3"
        assert (uid, writable) == (1000, False)
        assert pid != 1  # an init is

    def test_no_secret_is_on_a_command_line(self, docker_server: Callable[..., Server]) -> None:
        mark = Mark()
        server = docker_server(LITELLM_API_KEY="sk-ours-1234", DOCKER_RUN_ARGS=mark.option)
        script = "echo ready; sleep 600"
        with server.stream("sh", "-c", script, env={"KEY": "sk-theirs-5678"}) as stream:
            stream.read_until("ready")
            (pid,) = marked(mark.option)[mark.option]
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"--env=LITELLM_API_KEY\0" in words
        assert b"--env-file=" in words
        assert b"sk-" not in words
        assert b"LITELLM_API_KEY=sk-ours-1234\0" in environ
        assert b"sk-theirs" not in environ

    @pytest.mark.parametrize("isolation", ["subreaper", "process-group"])
    def test_variables_of_every_sort_reach_the_container_as_they_are(
        self, docker_server: Callable[..., Server], isolation: str
    ) -> None:
        variables = {
            **CARRIED,
            **NOT_CARRIED,
            "LONG_VALUE": "x" * 100_000,
            "BASH_FUNC_docker%%": "() { :; }",
            "LD_PRELOAD": "/no/such.so",
            "DOCKER_HOST": "unix:///no/such.sock",
            "HOME": "/nowhere",
            "PATH": f"/nonexistent:{os.environ['PATH']}:/usr/local/bin",
            "HTTPS_PROXY": "http://x",
        }
        # LANG, because Python would say by a variable what it makes of none.
        server = docker_server(RUN_ISOLATION=isolation, DOCKER_RUN_ARGS="--env=LANG=C.UTF-8")
        code = "import json, os; print(json.dumps(dict(os.environ)))"
        events = server.run("python3", "-c", code, env=variables)
        assert exit_code(events) == 0, events
        environ = json.loads(text_of(events, "stdout"))
        assert {name: environ.get(name) for name in variables} == variables
        assert "PYTHONPATH" not in environ  # the server's

    def test_the_operators_variables_come_before_a_requests(
        self, docker_server: Callable[..., Server]
    ) -> None:
        server = docker_server(
            DOCKER_RUN_ARGS="--env=A=ours --env=B=ours --env=FROM_SERVER", FROM_SERVER="s"
        )
        env = {"A": "theirs", "B": "their\nlines"}
        events = server.run("sh", "-c", 'echo "$A $B $FROM_SERVER"', env=env)
        assert text_of(events, "stdout") == "ours ours s\n"

    def test_exit_codes_are_those_of_docker_run(self, docker_server: Callable[..., Server]) -> None:
        server = docker_server(CLI_LIST="sh,no-such-cli,/etc/passwd")
        assert exit_code(server.run("sh", "-c", "exit 7")) == 7
        assert exit_code(server.run("sh", "-c", "kill -TERM $$")) == 143
        assert exit_code(server.run("no-such-cli")) == 127
        assert exit_code(server.run("/etc/passwd")) == 126

    def test_a_missing_image_is_named_with_what_to_do(
        self, docker_server: Callable[..., Server]
    ) -> None:
        server = docker_server(CODEX_DOCKER_IMAGE="codex-serve/no-such-image", DOCKER_PULL="never")
        events = server.run("sh")
        assert exit_code(events) == 125
        stderr = text_of(events, "stderr")
        assert "has no image 'codex-serve/no-such-image'" in stderr
        assert "DOCKER_PULL=missing" in stderr

    def test_a_wrong_option_is_explained_by_docker_itself(
        self, docker_server: Callable[..., Server]
    ) -> None:
        events = docker_server(DOCKER_RUN_ARGS="--no-such-option").run("sh")
        assert exit_code(events) == 125
        assert "no-such-option" in text_of(events, "stderr")

    def test_out_of_memory_is_told_from_other_kills(
        self, docker_server: Callable[..., Server]
    ) -> None:
        server = docker_server(DOCKER_MEMORY="32m")
        events = server.run("python3", "-c", "b'x' * (200 << 20)")
        assert exit_code(events) == 137
        assert "ran out of memory: DOCKER_MEMORY allows it 32m" in text_of(events, "stderr")
        events = server.run("sh", "-c", "kill -9 $$")
        assert exit_code(events) == 137
        assert text_of(events, "stderr") == ""

    def test_limits_reach_the_engine(self, docker_server: Callable[..., Server]) -> None:
        mark = Mark()
        limits = {"DOCKER_MEMORY": "64m", "DOCKER_PIDS": "50", "DOCKER_CPUS": "0.5"}
        server = docker_server(**limits, DOCKER_RUN_ARGS=mark.option)
        with server.stream("sh", "-c", "echo ready; sleep 600") as stream:
            stream.read_until("ready")
            (container,) = mark.containers()
            host = json.loads(docker("inspect", "--format={{json .HostConfig}}", container))
        assert host["Memory"] == host["MemorySwap"] == 64 << 20
        assert host["PidsLimit"] == 50
        assert host["NanoCpus"] == 500_000_000
        assert host["ReadonlyRootfs"] is True
