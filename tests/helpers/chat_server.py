"""A server on this machine that stands for an endpoint; it says, and misbehaves, as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Status, payload (bytes, or what JSON has a form for), and headers."""


class Server:
    """Replies with a script of the request's body; keeps what it was asked.

    `released` is set when the test ends, for scripts that keep a client waiting.
    """

    def __init__(self, script: Callable[..., Any]) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.most_at_once = self._at_once = 0
        self.lock, self.released = threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # clients that go away are part of it
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        status, payload, *more = self.reply(body)
        with self.lock:
            self._at_once -= 1
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        try:
            handler.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | dict(*more)).items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            handler.close_connection = True  # the client has gone

    def reply(self, body: dict[str, Any]) -> Reply:
        return self.script(body)

    def texts(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


class Judge(Server):
    """Its script gets the user's turn and gives a text, or the status of a failure."""

    def reply(self, body: dict[str, Any]) -> Reply:
        said = self.script(body["messages"][-1]["content"])
        return (said if isinstance(said, int) else 200), completion(said, 5)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """A server that listens, within the block."""
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def completion(said: Any, tokens: int) -> dict[str, Any]:
    """The payload of a chat completion."""
    return {"choices": [{"message": {"content": said}}], "usage": {"total_tokens": tokens}}
