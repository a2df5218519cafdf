#!/bin/sh
# server-entrypoint.sh COMMAND [ARGUMENT…]
#
# Becomes COMMAND, as the user codex-serve if the container was started as root, which is what
# happens when nobody says otherwise. A mounted Docker socket belongs to a group whose number
# differs from host to host: the user gets that group. Where that is not enough, the server stays
# root, and says so. A container that was started with --user stays with that user.
set -eu

[ "$(id -u)" = 0 ] || exec "$@"

socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
socket=${socket#unix://}
groups=--clear-groups
[ ! -S "$socket" ] || groups=--groups=$(stat --format=%g "$socket")

# exec at every step: signals for the container's main process are signals for the server.
become() {
  exec env HOME=/home/codex-serve \
    setpriv --reuid=codex-serve --regid=codex-serve "$groups" "$@"
}

if (become test ! -S "$socket" -o -w "$socket"); then
  become "$@"
fi
echo "server-entrypoint: no user but root can be had who may use $socket, so the server stays root" >&2
exec "$@"
