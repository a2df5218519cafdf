"""Imports point one way: the core knows nothing of trio, Quart or the environment."""

import json
import subprocess
import sys

import pytest

FOREIGN = {"trio", "quart", "quart_trio", "hypercorn", "h11", "werkzeug"}


def loaded_by(module: str) -> set[str]:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "module",
    [
        *("config", "errors", "events", "launchers", "launchers.docker", "launchers.local"),
        *("json_text", "leases", "logs", "malloc", "model"),
    ],
)
def test_core_loads_neither_trio_nor_the_web(module: str) -> None:
    assert not loaded_by(f"codex_serve.{module}") & FOREIGN


@pytest.mark.parametrize(
    "module", ["containers", "modes", "pipes", "registry", "run", "supervision.process_group"]
)
def test_engine_loads_trio_and_not_the_web(module: str) -> None:
    loaded = loaded_by(f"codex_serve.{module}")
    assert "trio" in loaded
    assert not loaded & (FOREIGN - {"trio"})
