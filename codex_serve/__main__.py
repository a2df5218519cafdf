"""``python -m codex_serve`` is the command ``codex-serve``."""

from codex_serve.cli.main import main

if __name__ == "__main__":
    main(prog_name="codex-serve")
