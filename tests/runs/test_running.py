"""``POST /run`` in local mode: what the stream promises, shown with real commands."""

import http.client
import json
import os
from pathlib import Path

import pytest

from conftest import StartServer
from process_tree import alive, memory_bytes, wait_gone, wait_until
from serving import Server, exit_code, text_of

MIB = 1024 * 1024


def test_output_streams_and_the_exit_comes_last(server: Server) -> None:
    events = server.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert text_of(events, "stdout") == "out\n"
    assert text_of(events, "stderr") == "err\n"
    assert exit_code(events) == 3


def test_the_answer_is_a_stream_that_no_proxy_holds_back(server: Server) -> None:
    answer = server.post({"cli": "true"})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_stdin_is_given_and_closed(server: Server) -> None:
    events = server.run("cat", stdin="Prompt: grüße\n")
    assert text_of(events, "stdout") == "Prompt: grüße\n"
    assert exit_code(events) == 0


def test_without_stdin_the_command_reads_the_end_at_once(server: Server) -> None:
    assert server.run("cat") == [{"type": "exit", "code": 0}]


def test_the_environment_is_the_servers_overlaid_by_env(start_server: StartServer) -> None:
    server = start_server({"KEPT": "server", "CHANGED": "server"})
    script = 'echo "$KEPT $CHANGED $NEW"'
    events = server.run("sh", "-c", script, env={"CHANGED": "request", "NEW": "request"})
    assert text_of(events, "stdout") == "server request request\n"


def test_arguments_meet_no_shell(server: Server) -> None:
    arguments = ["$HOME; echo no", "*", "a b", "", "'\"\\", "日本"]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    events = server.run("python3", "-c", code, *arguments)
    assert json.loads(text_of(events, "stdout")) == arguments


def test_path_of_env_finds_the_command(server: Server, tmp_path: Path) -> None:
    tool = tmp_path / "no-such-cli"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    events = server.run("no-such-cli", env={"PATH": f"/nowhere:{tmp_path}"})
    assert text_of(events, "stdout") == "found\n"


def test_a_partial_line_is_an_event_at_once(server: Server) -> None:
    with server.stream("sh", "-c", "printf 'Password: '; exec sleep 60") as stream:
        assert stream.next_event() == {"type": "stdout", "data": "Password: "}


def test_events_hold_at_most_64_kib_and_lose_nothing(server: Server) -> None:
    code = "import os; os.write(1, b'x' * 1_000_000); os.write(2, b'y' * 200_000)"
    events = server.run("python3", "-c", code)
    assert text_of(events, "stdout") == "x" * 1_000_000
    assert text_of(events, "stderr") == "y" * 200_000
    sizes = [len(event["data"]) for event in events[:-1]]
    assert max(sizes) <= 65_536


def test_the_order_within_a_stream_is_kept(server: Server) -> None:
    code = "import os\nfor n in range(20000): os.write(1 + n % 2, b'%d ' % n)"
    events = server.run("python3", "-c", code)
    for kind, start in (("stdout", 0), ("stderr", 1)):
        assert text_of(events, kind).split() == [str(n) for n in range(start, 20_000, 2)]


def test_characters_are_never_cut(server: Server) -> None:
    code = "import os\nfor byte in 'é€😀'.encode() * 50: os.write(1, bytes([byte]))"
    assert text_of(server.run("python3", "-c", code), "stdout") == "é€😀" * 50


def test_an_invalid_byte_becomes_a_replacement_character(server: Server) -> None:
    assert text_of(server.run("sh", "-c", r"printf 'a\377b\303'"), "stdout") == "a�b�"


def test_a_long_prompt_into_a_child_that_prints_first_does_not_deadlock(server: Server) -> None:
    code = (
        "import os, sys\n"
        "sys.stdout.write('o' * 10_000_000); sys.stdout.flush()\n"
        "sys.stdout.write(str(len(sys.stdin.read())))"
    )
    events = server.run("python3", "-c", code, stdin="p" * 10_000_000)
    assert text_of(events, "stdout") == "o" * 10_000_000 + "10000000"
    assert exit_code(events) == 0


@pytest.mark.parametrize("script", ["exit 0", "exec <&-; echo closed"])
def test_a_child_that_does_not_read_its_prompt_is_no_error(server: Server, script: str) -> None:
    events = server.run("sh", "-c", script, stdin="p" * MIB)
    assert exit_code(events) == 0
    assert text_of(events, "stderr") == ""


@pytest.mark.slow
def test_a_reader_that_stops_makes_the_child_wait(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The child writes until nothing is taken from it for a second, then tells how much was."""
    server = start_server()
    count = tmp_path / "count"
    code = (
        "import os, select, sys\n"
        "os.set_blocking(1, False)\n"
        "written = 0\n"
        "while select.select([], [1], [], 1)[1] and written < 300_000_000:\n"
        "    written += os.write(1, b'x' * 4096)\n"
        f"open({str(count)!r}, 'w').write(str(written))\n"
    )
    before = memory_bytes(server.process.pid)
    with server.stream("python3", "-c", code):
        wait_until(lambda: count.exists() and count.read_text() != "", "the end of the writing")
        assert int(count.read_text()) < 32 * MIB  # what the kernel's buffers take
        assert memory_bytes(server.process.pid) - before < 4 * MIB


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 42", 42), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)],
)
def test_exit_codes_are_the_commands_own(server: Server, script: str, code: int) -> None:
    assert exit_code(server.run("sh", "-c", script)) == code


def test_a_command_that_is_not_found_is_127_in_words(server: Server) -> None:
    events = server.run("no-such-cli")
    assert text_of(events, "stderr") == "no-such-cli: command not found on PATH\n"
    assert exit_code(events) == 127


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("echo no interpreter line\n", 0o755, "neither a program for this machine nor a script"),
        ("#!/no/such/interpreter\n", 0o755, "interpreter"),
        (None, 0o755, "Permission denied"),
    ],
    ids=["no permission", "no program", "no interpreter", "a folder"],
)
def test_a_command_that_cannot_be_executed_is_126_in_words(
    server: Server, tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    tool = tmp_path / "no-such-cli"
    if content is None:
        tool.mkdir()
    else:
        tool.write_text(content)
    tool.chmod(mode)
    events = server.run("no-such-cli", env={"PATH": str(tmp_path)})
    assert words in text_of(events, "stderr")
    assert exit_code(events) == 126


def test_arguments_that_are_too_long_here_are_126_in_words(start_server: StartServer) -> None:
    # A quarter of the stack is for arguments: 1 MiB, where the request may have 2 MiB.
    server = start_server(prefix=["sh", "-c", 'ulimit -s 4096; exec "$@"', "-"])
    events = server.run("true", *["x" * 100_000] * 12)
    assert "larger than the system allows" in text_of(events, "stderr")
    assert exit_code(events) == 126


@pytest.mark.slow
def test_the_timeout_ends_the_child_and_says_so(start_server: StartServer) -> None:
    server = start_server({"RUN_RESPONSE_TIMEOUT_SECONDS": "0.5"})
    events = server.run("sh", "-c", "echo $$; exec sleep 60")
    assert not alive(int(events[0]["data"]))
    assert events[1:] == [
        {
            "type": "stderr",
            "data": "Request timed out while waiting for CLI response (0.5s).",
        },
        {"type": "exit", "code": 124},
    ]


@pytest.mark.slow
def test_the_timeout_ends_the_child_while_the_reader_stalls(start_server: StartServer) -> None:
    server = start_server({"RUN_RESPONSE_TIMEOUT_SECONDS": "1"})
    with server.stream("sh", "-c", "echo $$; exec cat /dev/zero") as stream:
        wait_gone(int(stream.next_event()["data"].split("\n")[0]))
        events = stream.rest()
    assert events[-2]["data"] == "Request timed out while waiting for CLI response (1s)."
    assert exit_code(events) == 124


@pytest.mark.slow
def test_output_up_to_the_timeout_is_not_lost(start_server: StartServer) -> None:
    server = start_server({"RUN_RESPONSE_TIMEOUT_SECONDS": "1"})
    script = "trap 'echo last words; exit' TERM; echo first; while :; do sleep 0.01; done"
    events = server.run("sh", "-c", script)
    assert text_of(events, "stdout") == "first\nlast words\n"
    assert exit_code(events) == 124


@pytest.mark.parametrize("timeout", ["0", "-5", ""])
def test_a_timeout_of_nothing_disables_it(start_server: StartServer, timeout: str) -> None:
    server = start_server({"RUN_RESPONSE_TIMEOUT_SECONDS": timeout})
    assert exit_code(server.run("sh", "-c", "sleep 0.2; exit 5")) == 5
    assert not any("WARNING" in line for line in server.log)


def test_an_invalid_timeout_disables_it_with_a_warning(start_server: StartServer) -> None:
    server = start_server({"RUN_RESPONSE_TIMEOUT_SECONDS": "soon"})
    assert exit_code(server.run("sh", "-c", "sleep 0.2; exit 5")) == 5
    (warning,) = [line for line in server.log if "WARNING" in line]
    assert "RUN_RESPONSE_TIMEOUT_SECONDS" in warning


@pytest.mark.parametrize("script", ["exec sleep 60", "exec cat /dev/zero"])
def test_a_client_that_leaves_ends_the_run(server: Server, script: str) -> None:
    with server.stream("sh", "-c", f"echo $$; {script}") as stream:
        pid = int(stream.next_event()["data"].split("\n")[0])
        assert alive(pid)
    wait_gone(pid)


def test_a_client_that_leaves_before_the_response_leaves_nothing(server: Server) -> None:
    body = json.dumps({"cli": "sh", "args": ["-c", "exec sleep 61.25"]}).encode()
    head = "POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(head.encode() + body)
    wait_until(lambda: not _running(b"61.25"), "the end of all the children")


def _running(argument: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument in arguments:
                found.append(int(entry.name))
    return found


def test_a_connection_serves_one_run_after_the_other(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sockets = set()
    for number in range(3):
        body = json.dumps({"cli": "sh", "args": ["-c", f"echo {number}"]})
        connection.request("POST", "/run", body, {"Content-Type": "application/json"})
        assert connection.sock is not None
        sockets.add(connection.sock.getsockname())
        events = [json.loads(line) for line in connection.getresponse()]
        assert text_of(events, "stdout") == f"{number}\n"
    connection.close()
    assert len(sockets) == 1


@pytest.mark.slow
def test_long_requests_can_follow_a_response_at_once(server: Server) -> None:
    """Its end may be at the client's before the server takes note of having sent it."""
    body = json.dumps({"cli": "true", "stdin": "x" * 300_000}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for _ in range(800):
        connection.request("POST", "/run", body, {"Content-Type": "application/json"})
        assert connection.getresponse().read() == b'{"type":"exit","code":0}\n'
    connection.close()


def test_many_runs_at_once_do_not_mix(server: Server) -> None:
    with (
        server.stream("cat", stdin="first\n") as first,
        server.stream("sh", "-c", "echo second; exec sleep 60") as second,
        server.stream("cat", stdin="third\n") as third,
    ):
        assert text_of(third.rest(), "stdout") == "third\n"
        assert text_of(first.rest(), "stdout") == "first\n"
        assert second.next_event()["data"] == "second\n"


def test_the_prompt_and_the_environment_stay_out_of_the_log(start_server: StartServer) -> None:
    server = start_server({"LOG_LEVEL": "DEBUG"})
    secret = "s3cret-word"
    server.run("sh", "-c", f": {secret}", stdin=secret, env={"TOKEN": secret})
    server.run("no-such-cli", secret, stdin=secret, env={"TOKEN": secret})
    server.post({"cli": "sh", "stdin": secret, "env": {"A=B": secret}})
    server.run("true")
    server.wait_for_log("run of true")
    assert any("run of sh" in line for line in server.log)
    assert not any(secret in line for line in server.log)


def test_http_1_0_gets_the_whole_stream_and_the_close(server: Server) -> None:
    body = b'{"cli": "sh", "args": ["-c", "echo one; echo two"]}'
    head = b"POST /run HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head % len(body) + body)
        answer = connection.makefile("rb").read()
    lines = answer.partition(b"\r\n\r\n")[2].splitlines()
    assert text_of([json.loads(line) for line in lines], "stdout") == "one\ntwo\n"
    assert json.loads(lines[-1]) == {"type": "exit", "code": 0}


@pytest.mark.parametrize("isolation", ["subreaper", "process-group"])
@pytest.mark.parametrize(
    "locale",
    [
        {},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONUTF8": "1"},
    ],
    ids=str,
)
def test_bytes_of_the_environment_and_of_arguments_arrive_as_they_are(
    start_server: StartServer, locale: dict[str, str], isolation: str
) -> None:
    odd = {"ODD": os.fsdecode(b"\xff\xc3\xa4")}
    server = start_server({**locale, **odd, "RUN_ISOLATION": isolation})
    script = 'printf %s "$ODD-$1-$THEIRS" | od -An -tx1'
    events = server.run("sh", "-c", script, "-", "ä", env={"THEIRS": "é"})
    assert text_of(events, "stdout").replace(" ", "").strip() == "ffc3a42dc3a42dc3a9"
