"""The bundled stand-in for an AI command-line tool: ``codex-serve --demo``.

It behaves like the real ones where it matters to a client: it reads the prompt
to its end, says something on stderr, and answers a word at a time.
"""

import argparse
import sys
import time

WORD_S = 0.1
"""The time between two words, about what a model takes for a token or two."""


def main() -> None:
    """Answer the prompt on stdin."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("-m", "--model", default="auto", help="the model to pretend to be")
    arguments = parser.parse_args()
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    prompt = sys.stdin.read()
    print(f"demo: model {arguments.model}, no AI involved", file=sys.stderr, flush=True)
    for word in ("You", "asked:", *prompt.split()):
        time.sleep(WORD_S)
        print(word, end=" ", flush=True)
    time.sleep(WORD_S)
    print(flush=True)


if __name__ == "__main__":
    main()
