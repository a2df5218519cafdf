#!/usr/bin/env bash
# Builds the server's image, craftslab/codex-serve:latest. With --lock, makes the lock files anew instead.
set -euo pipefail
cd "$(dirname "$0")"

if [ "${1:-}" = --lock ]; then
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet uv
  lock() {
    "$tools/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.11 \
      --generate-hashes --no-emit-index-url --no-header --no-annotate pyproject.toml "$@"
  }
  lock --output-file requirements.txt
  lock --group dev --output-file requirements-dev.txt
  exit
fi

exec docker build ${PYTHON_IMAGE:+--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE"} \
  --tag craftslab/codex-serve:latest "$@" .
