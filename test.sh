#!/usr/bin/env bash
# Sets up what it needs, then checks style and types and runs all tests.
#
#   ./test.sh                      all, under the oldest Python and the newest
#   ./test.sh --quick              what needs no container and no real CLI, under one Python
#   ./test.sh ARGUMENT...          pytest with these arguments, under one Python, and no more
#
#   TEST_ENVS       where the environments are kept (default .venv-test)
#   REQUIRE_DOCKER  1: a machine on which no Docker engine answers fails, where else the tests that
#                   need one are skipped; and so on for each need in tests/needs.py
#   REQUIRE_ALL     1: a machine fails that lacks anything but what has a 0 of its own, as in
#                   REQUIRE_DOCKER=0
#   PYTHON_IMAGE, BASE_IMAGE, NODE_IMAGE
#                   the bases of the two images, where not the public ones
set -euo pipefail
cd "$(dirname "$0")"
export PIP_DISABLE_PIP_VERSION_CHECK=1
envs=${TEST_ENVS:-.venv-test}
mkdir -p "$envs"
envs=$(cd "$envs" && pwd)

# Prints a command that runs Python $1, from PATH or from pyenv.
find_python() {
  local candidate
  for candidate in "python$1" "$(pyenv prefix "$(pyenv latest "$1" 2>/dev/null)" 2>/dev/null)/bin/python" python3; do
    if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Makes the environment $1 with Python $2 and what $3 locks, unless it has that already. The pip that
# comes with Python may be too old for a lock file, so that the environment gets one of its own first.
make_env() {
  cat requirements-pip.txt "$3" | cmp -s - "$1/installed.txt" && return
  rm -rf "$1" &&
    "$2" -m venv "$1" &&
    "$1/bin/pip" install --quiet --require-hashes -r requirements-pip.txt &&
    "$1/bin/pip" install --quiet --require-hashes -r "$3" &&
    cat requirements-pip.txt "$3" >"$1/installed.txt"
}

# Installs the real CLIs for the end-to-end tests and points the tests at them.
install_clis() {
  command -v npm >/dev/null || return 0
  local folder=$envs/e2e
  if ! cmp -s tests/e2e/package-lock.json "$folder/installed.json"; then
    rm -rf "$folder" && mkdir "$folder"
    cp tests/e2e/package.json tests/e2e/package-lock.json tests/e2e/.npmrc "$folder"
    (cd "$folder" && npm ci --silent)
    cp tests/e2e/package-lock.json "$folder/installed.json"
  fi
  export CODEX_E2E_NODE_MODULES=$folder/node_modules
}

# Installs the real LiteLLM proxy with Python $1, for the test of the whole chain, and points the
# test at it.
install_litellm() {
  if make_env "$envs/litellm" "$1" codex.docker/chain/requirements.txt; then
    export CODEX_E2E_LITELLM=$envs/litellm/bin/litellm
  else
    echo "test.sh: LiteLLM cannot be installed" >&2
  fi
}

# These wait more than they work. The others share an engine, images and a proxy.
plain='not docker and not e2e and not image'

# Runs the tests with Python $1, all but those that the expression $2 leaves out.
run_tests() {
  echo "== tests under Python $("$1" --version | cut -d " " -f 2)"
  "$1" -m pytest --numprocesses 4 --dist worksteal -m "$plain"
  [ "$2" = "$plain" ] || "$1" -m pytest -m "not ($plain) and ($2)"
}

case ${1-} in
  '') pythons='3.11 3.13' what=all ;;
  --quick) pythons='3.11' what=quick ;;
  *) pythons='3.11' what=given ;;
esac
[ "$what" = all ] || [[ "$*" == *e2e* ]] && install_clis
tested=
for version in $pythons; do
  # Where there is neither the oldest nor the newest, any between them will do.
  python=$(find_python "$version") || python=$(find_python 3.12) || python=$(find_python 3.13) || continue
  env=$envs/$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [[ "$tested " != *" $(basename "$env") "* ]] || continue
  make_env "$env" "$python" requirements-dev.txt
  if [ "$what" = given ]; then
    exec "$env/bin/python" -m pytest "$@"
  fi
  if [ -z "$tested" ]; then
    "$env/bin/ruff" format --check .
    "$env/bin/ruff" check .
    "$env/bin/mypy"
    "$env/bin/lint-imports"
  fi
  if [ "$what" = quick ]; then
    run_tests "$env/bin/python" "$plain"
  elif [ -z "$tested" ]; then
    if docker info >/dev/null 2>&1; then install_litellm "$python"; fi
    run_tests "$env/bin/python" 'docker or e2e or image'
  else
    # What is in an image does not change with the Python that looks at it.
    run_tests "$env/bin/python" 'not image'
  fi
  tested+=" $(basename "$env")"
done
if [ -z "$tested" ]; then
  echo "test.sh: Python 3.11 or later is needed, with its venv module" >&2
  exit 1
fi
echo "== passed under Python$tested"
