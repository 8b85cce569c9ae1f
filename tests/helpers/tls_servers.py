"""Servers on loopback that answer well, badly or not at all; each ends with its block."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime
from email.utils import format_datetime

from fedrai.deployment.setup import certificates
from fedrai.deployment.setup.settings import Address

DAY = 24 * 3600


def issue(folder, *, names=("localhost", "127.0.0.1"), days=30, now=None, name="trial"):
    """Write ca.pem, server.pem and server.key into a folder; gives the CA."""
    ca = certificates.make_ca(name, now=now)
    made = certificates.make_server(ca, tuple(names), days=days, now=now)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(ca.certificate)
    (folder / "server.pem").write_bytes(made.certificate)
    (folder / "server.key").write_bytes(made.key)
    return ca


def tls(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


def answer(date=None, status="200 OK"):
    """An HTTP answer as a SuperLink gives it; date: a moment, or None for no header."""

    def serve(connection):
        with contextlib.suppress(OSError):
            connection.recv(4096)
            header = f"Date: {format_datetime(date(), usegmt=True)}\r\n" if date else ""
            connection.sendall(
                f"HTTP/1.1 {status}\r\n{header}Content-Length: 0\r\n\r\n".encode("ascii")
            )

    return serve


def now():
    return datetime.now(UTC).replace(microsecond=0)


@contextlib.contextmanager
def server(serve, context=None):
    """A server that hands each connection to `serve`, over TLS with a context."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def accept():
            while not over.is_set():
                with contextlib.suppress(OSError):
                    connection = listener.accept()[0]
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(plain):
            plain.settimeout(20)
            with plain, contextlib.suppress(OSError):
                if context is None:
                    serve(plain)
                else:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        serve(secure)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Address("localhost", listener.getsockname()[1])
        finally:
            over.set()
            thread.join()
