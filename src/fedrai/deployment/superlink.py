"""Flower's SuperLink, whose Control and Runtime APIs are closed to other machines.

    python -m fedrai.deployment.superlink --ssl-certfile ... (the arguments of flower-superlink)

In Flower 1.42 all of a SuperLink's APIs share one port: Fleet, where nodes sign every request;
Control, where runs are started and nodes registered; and Runtime, where ServerApps get their tasks.
Control and Runtime do not authenticate anyone unless an identity provider is set up, so anyone who
reaches the port could run their own code on every node. Here other machines can reach
`/v1/fleet/` and `/health`, and get 403 for everything else.

This does not protect from other users of the server's machine, or from requests that a reverse
proxy on it forwards without `X-Forwarded-For`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedrai.federation.flower_internals import install_middleware

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Receive, Scope, Send

OUTSIDE = ("/v1/fleet/", "/health")
"""Paths for other machines: the first as a prefix."""


class OwnMachineOnly:
    """ASGI middleware: other machines can reach the paths in `OUTSIDE` only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or answer it with 403 (a websocket: close it)."""
        if scope["type"] not in ("http", "websocket") or allowed(
            scope["path"], scope.get("client"), scope.get("server")
        ):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            head = {"type": "http.response.start", "status": 403, "headers": []}
            await send(head)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})


def allowed(path: str, client: Sequence[Any] | None, server: Sequence[Any] | None) -> bool:
    """Whether a request is allowed.

    Args:
        path: path of the URL, decoded.
        client: host and port of the sender; None: unknown, treated as another machine.
        server: host and port that received it.
    """
    if path.startswith(OUTSIDE[0]) or path in OUTSIDE[1:]:
        return True
    return client is not None and _is_here(str(client[0]), str(server[0]) if server else "")


def _is_here(client: str, server: str) -> bool:
    """Whether an address is of this machine: loopback, or the one that received the request."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return plain.is_loopback or client == server


def _middleware() -> tuple[Middleware, ...]:
    from starlette.middleware import Middleware

    return (Middleware(OwnMachineOnly),)


def install() -> None:
    """Put the middleware in front of every SuperLink that this process creates."""
    install_middleware(_middleware)


def main() -> None:
    """Start the SuperLink with this process's arguments."""
    os.environ["FORWARDED_ALLOW_IPS"] = "127.0.0.1"  # whose X-Forwarded-For uvicorn trusts
    install()
    from fedrai.federation.flower_internals import flower_superlink

    flower_superlink()


if __name__ == "__main__":
    main()
