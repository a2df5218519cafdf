#!/usr/bin/env bash
# Builds the CLI image, craftslab/codex-cli-env:latest (or the name given as the one argument).
# BASE_IMAGE and NODE_IMAGE in the environment take the place of the Dockerfile's defaults.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

image=${1:-craftslab/codex-cli-env:latest}
build_args=()
for name in BASE_IMAGE NODE_IMAGE; do
  if [ -n "${!name:-}" ]; then build_args+=(--build-arg "$name=${!name}"); fi
done

# With nothing in the array, bash 3.2 (macOS) would call it unset.
exec docker build ${build_args[@]+"${build_args[@]}"} --tag "$image" .
