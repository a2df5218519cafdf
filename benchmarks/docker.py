"""What a run in a container costs beside the same ``docker run`` by hand.

    PYTHON_IMAGE=... python benchmarks/docker.py

``true`` through ``/run`` and by a plain subprocess with the very same command
line, in turn. Prints the medians and the median ratio of the pairs.
"""

import http.client
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent)]

from codex_serve.backends.docker.command import DockerClient, DockerLauncher
from codex_serve.core.config import Config
from codex_serve.core.execution import RunInfo
from codex_serve.core.request import RunRequest
from codex_serve.processes.exec_errors import argv_with_file, file_of
from serving import Server

PAIRS = 60
WARM_UP = 5
IMAGE = os.environ.get("PYTHON_IMAGE") or "python:3.13-slim"


def by_hand(settings: dict[str, str]) -> float:
    config = Config.from_environ(settings)
    assert config.docker is not None
    client = DockerClient.find(os.environ)
    assert client is not None
    launcher = DockerLauncher(config.docker, client, {}, config.models, "byhand", None)
    launch = launcher(RunRequest("true"), RunInfo(secrets.token_hex(8), time.time()))
    start = time.perf_counter()
    with file_of(launch) as more:
        subprocess.run(
            argv_with_file(launch, *more),
            env=launch.env,
            stdin=subprocess.DEVNULL,
            pass_fds=more,
            check=True,
        )
    return time.perf_counter() - start


def by_server(connection: http.client.HTTPConnection) -> float:
    start = time.perf_counter()
    connection.request("POST", "/run", '{"cli": "true"}', {"Content-Type": "application/json"})
    assert connection.getresponse().read() == b'{"type":"exit","code":0}\n'
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as leases:
        settings = {
            "CLI_LIST": "true",
            "CODEX_DOCKER_IMAGE": IMAGE,
            "DOCKER_PULL": "missing",
            "DOCKER_LEASE_DIR": leases,
        }
        with Server(settings) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            pairs = []
            for turn in range(WARM_UP + PAIRS):
                # Each way is the first of every other pair.
                if turn % 2:
                    ours, hand = by_server(connection), by_hand(settings)
                else:
                    hand, ours = by_hand(settings), by_server(connection)
                pairs.append((ours, hand))
            connection.close()
    pairs = pairs[WARM_UP:]
    ours_median, hand_median = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, {PAIRS} pairs")
    print(f"docker run by hand  median {hand_median * 1000:6.1f} ms")
    print(f"POST /run           median {ours_median * 1000:6.1f} ms")
    print(f"ratio of the medians          {ours_median / hand_median:.3f}")
    print(f"median of the pairs' ratios   {statistics.median(o / h for o, h in pairs):.3f}")


if __name__ == "__main__":
    main()
