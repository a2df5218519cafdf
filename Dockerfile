# The server's image. Its runs are containers beside it, started through the engine's socket:
# see docker-compose.yml.
#
# Plain Dockerfile syntax on purpose: the classic builder makes it as well as BuildKit does.

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/codex-serve
ENV PATH=/opt/codex-serve/bin:$PATH
WORKDIR /build
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY codex_serve ./codex_serve
RUN pip install --no-cache-dir --no-deps .

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="codex.serve" \
      org.opencontainers.image.description="Runs AI command-line tools on request and streams what they say"

# The client by which runs become containers. Debian 13 has it by itself, Debian 12 only together
# with an engine, which nobody starts here.
RUN apt-get update \
 && if apt-cache show docker-cli >/dev/null 2>&1; then client=docker-cli; else client=docker.io; fi \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$client" \
 && rm -rf /var/lib/apt/lists/*

# A number that is nobody's on the host: this user may use the engine's socket. The volume is what
# outlives the container: by the leases in it a new server recognises what a dead one left. Whoever
# --user names may write there too.
RUN useradd --uid 10001 --user-group --create-home codex-serve \
 && mkdir --mode=1777 /var/lib/codex-serve
ENV DOCKER_LEASE_DIR=/var/lib/codex-serve
VOLUME /var/lib/codex-serve

COPY --from=build /opt/codex-serve /opt/codex-serve
ENV PATH=/opt/codex-serve/bin:$PATH
COPY server-entrypoint.sh /usr/local/bin/server-entrypoint.sh
WORKDIR /home/codex-serve

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s CMD ["python", "-m", "codex_serve.cli.healthcheck"]
# Exec form, and the entrypoint execs: the server is the container's main process, so the container
# is its fence, and a signal for the container reaches it.
ENTRYPOINT ["server-entrypoint.sh"]
CMD ["codex-serve"]
