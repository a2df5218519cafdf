ARG PYTHON_IMAGE=python:3.13-slim
FROM ${PYTHON_IMAGE}

WORKDIR /srv
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md ./
COPY codex_serve ./codex_serve
RUN pip install --no-cache-dir --no-deps .

EXPOSE 8000
# Exec form: the server is the container's main process, so the container is its fence.
CMD ["codex-serve"]
