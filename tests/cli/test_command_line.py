"""The command: what it says and how it ends."""

import signal
import socket
from pathlib import Path

import pytest
import trio

from codex_serve.cli import main as main_module
from conftest import StartServer
from process_tree import wait_gone
from serving import exit_code, refused_start, text_of


def test_a_bad_variable_is_one_clear_line_and_status_2() -> None:
    line = refused_start(env={"MAX_CONNECTIONS": "many"})
    assert "MAX_CONNECTIONS must be a whole number from 1 to 1000000, not 'many'" in line


def test_a_bad_option_is_one_clear_line_and_status_2() -> None:
    assert "--port must be" in refused_start(["--port", "many"])


def test_a_port_in_use_is_one_clear_line_and_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused_start(["--port", port])
    assert port in line
    assert "in use" in line


def test_a_host_that_is_not_ours_is_one_clear_line_and_status_2() -> None:
    assert "no.such.host.invalid" in refused_start(["--host", "no.such.host.invalid"])


def test_options_come_before_the_environment(start_server: StartServer) -> None:
    server = start_server({"HOST": "203.0.113.1", "PORT": "1"})  # started with both options
    assert server.request("GET", "/models").status == 200


STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_an_idle_server_with_status_0(
    start_server: StartServer, number: signal.Signals
) -> None:
    server = start_server()
    with server.connect():  # an idle connection does not hold it up
        server.process.send_signal(number)
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_lets_a_short_run_finish(
    start_server: StartServer, tmp_path: Path, number: signal.Signals
) -> None:
    server = start_server({"SHUTDOWN_GRACE_SECONDS": "30"})
    gate = tmp_path / "gate"
    script = f"echo go; until [ -e {gate} ]; do sleep 0.01; done; echo done; exit 3"
    with server.stream("sh", "-c", script) as stream:
        stream.read_until("go")
        server.process.send_signal(number)
        server.wait_for_log(f"{number.name}: stopping")
        gate.touch()
        events = stream.rest()
    assert text_of(events, "stdout") == "done\n"
    assert exit_code(events) == 3
    assert server.process.wait(30) == 0


def test_a_hangup_that_is_ignored_as_by_nohup_stays_ignored(start_server: StartServer) -> None:
    server = start_server(prefix=["env", "--ignore-signal=HUP"])
    server.process.send_signal(signal.SIGHUP)
    assert server.request("GET", "/models").status == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert not any("SIGHUP" in line for line in server.log)


def test_a_stop_ends_a_long_run_and_its_stream_says_so(start_server: StartServer) -> None:
    server = start_server({"SHUTDOWN_GRACE_SECONDS": "0.3"})
    with server.stream("sh", "-c", "echo $$; exec sleep 60") as stream:
        pid = int(stream.next_event()["data"])
        server.process.send_signal(signal.SIGTERM)
        events = stream.rest()
    assert "stopping" in text_of(events, "stderr")
    assert exit_code(events) == 143
    assert server.process.wait(30) == 0
    wait_gone(pid)


def test_a_second_signal_does_not_wait_for_the_grace(start_server: StartServer) -> None:
    server = start_server({"SHUTDOWN_GRACE_SECONDS": "10000"})
    with server.stream("sh", "-c", "echo go; exec sleep 60") as stream:
        stream.read_until("go")
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        assert exit_code(stream.rest()) == 143
    assert server.process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_third_signal_ends_the_server_at_once_and_the_run_after_it(
    start_server: StartServer, number: signal.Signals
) -> None:
    settings = {"SHUTDOWN_GRACE_SECONDS": "10000", "RUN_KILL_GRACE_SECONDS": "5"}
    server = start_server(settings)
    with server.stream("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done") as stream:
        pid = int(stream.next_event()["data"])
        for words in ("stopping", "ending the runs", "ended at once"):
            assert server.process.poll() is None
            server.process.send_signal(number)
            server.wait_for_log(f"{number.name}: {words}")
        assert server.process.wait(30) == 128 + number
    wait_gone(pid)
    assert not any(word in line for line in server.log for word in ("Aborted", "Traceback"))


def test_an_interrupt_that_nobody_obeys_is_an_exit_status_and_no_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "run", interrupt)
    monkeypatch.setattr(main_module, "configure_logging", lambda level: None)
    with pytest.raises(SystemExit) as exit_info:
        main_module.main([])
    assert exit_info.value.code == 130
    assert capfd.readouterr() == ("", "")


def test_the_demo_is_served_without_any_ai(start_server: StartServer) -> None:
    server = start_server({"CLI_LIST": ""}, ["--demo"])
    assert b'"clis":["demo"]' in server.request("GET", "/clis").body
    events = server.run("demo", "--model", "gpt-4", stdin="Say hello")
    assert text_of(events, "stderr") == "demo: model gpt-4, no AI involved\n"
    assert text_of(events, "stdout") == "You asked: Say hello \n"
    assert next(event["data"] for event in events if event["type"] == "stdout") == "You "
    assert exit_code(events) == 0


def test_without_demo_there_is_no_demo(start_server: StartServer) -> None:
    assert start_server().post({"cli": "demo"}).status == 400
