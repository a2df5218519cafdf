"""What every refusal must look like, and a client that sends bare bytes."""

import http.client

from serving import Answer, Server

JSON = {"Content-Type": "application/json"}


def check_error(answer: Answer, status: int, code: str) -> str:
    """Check the one JSON line, and return the sentence in it."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    error = answer.error
    assert error == {
        "type": "stderr",
        "data": error["detail"],
        "detail": error["detail"],
        "code": code,
    }
    return str(error["detail"])


def raw(server: Server, data: bytes) -> Answer:
    """Send bytes that no HTTP library would, and read one response."""
    with server.connect() as connection:
        connection.sendall(data)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, response.headers, response.read())
