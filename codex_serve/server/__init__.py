"""Bytes to ASGI and back: listening, connections, HTTP/1.1. Knows nothing of runs."""
