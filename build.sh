#!/usr/bin/env bash
# Builds the server's image, craftslab/codex-serve:latest (or the name given as the one argument).
# PYTHON_IMAGE in the environment takes the place of the Dockerfile's default.
# With --lock, makes the lock files anew instead; with --wheel FOLDER, makes a wheel there.
set -euo pipefail
cd "$(dirname "$0")"

if [ "${1:-}" = --lock ]; then
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet uv
  lock() {
    "$tools/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.11 \
      --generate-hashes --no-emit-index-url --no-header --no-annotate "$@"
  }
  lock - --output-file requirements-pip.txt <<<pip
  lock pyproject.toml --output-file requirements.txt
  lock pyproject.toml --group dev --output-file requirements-dev.txt
  lock codex.docker/chain/requirements.in --output-file codex.docker/chain/requirements.txt
  exit
fi

if [ "${1:-}" = --wheel ]; then
  folder=$(realpath "${2:?a folder}")
  # Built from a copy: setuptools would pack what an earlier build left in build/.
  copy=$(mktemp -d)
  trap 'rm -rf "$copy"' EXIT
  cp -R codex_serve pyproject.toml README.md LICENSE "$copy"
  cd "$copy"
  "${PYTHON:-python3}" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" .
  exit
fi

exec docker build ${PYTHON_IMAGE:+--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE"} \
  --tag "${1:-craftslab/codex-serve:latest}" .
