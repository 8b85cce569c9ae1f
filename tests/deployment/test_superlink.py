"""The SuperLink's APIs: what another machine reaches, and what only its own does."""

import asyncio

import pytest

from fedrai.deployment import superlink

CONTROL = ("/v1/control/start-run", "/v1/control/register-node", "/v1/control/list-runs")
RUNTIME = ("/v1/runtime/acquire-task", "/v1/runtime/create-task")


@pytest.fixture
def flower(monkeypatch):
    """Flower's own SuperLink app as `flower-superlink` makes it, with ours in front."""
    from flower_parts import create_app, get_middleware

    monkeypatch.setattr("flwr.superlink.extensions.get_middleware", get_middleware)
    superlink.install()
    return create_app()


def ask(app, path, client, *, method="POST", body=b"", headers=()):
    """The status of one request; the path goes in as it is, with dots and all."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "https", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": list(headers), "client": (client, 50000), "server": ("10.0.0.5", 8000),
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize("client", ["10.0.0.9", "8.8.8.8", "fe80::1%eth0", "2001:db8::9", "nobody"])
def test_other_machines_reach_what_nodes_need_and_no_more(flower, client):
    closed = (*CONTROL, *RUNTIME, "/docs", "/openapi.json", "/", "/v1/fleet", "/health/x",
              "/v1/control/../fleet/x", "//v1/fleet/x", "/V1/FLEET/x")  # fmt: skip
    for path in closed:
        assert ask(flower, path, client) == 403, path
    assert ask(flower, "/health", client, method="GET") == 200
    assert ask(flower, "/v1/fleet/pull-messages", client) not in (403, 404)
    for path in ("/v1/fleet/../control/list-runs", "/v1/fleet//v1/control/list-runs"):
        assert ask(flower, path, client) == 404, path


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_its_own_machine_reaches_all(flower, client):
    for path in (*CONTROL, *RUNTIME):
        assert ask(flower, path, client) not in (403, 404), path


@pytest.mark.parametrize(
    ("path", "client", "server", "expected"),
    [
        ("/v1/control/x", ("10.0.0.5", 1), ("10.0.0.5", 8000), True),  # the machine's own address
        ("/v1/control/x", ("10.0.0.6", 1), ("10.0.0.5", 8000), False),
        ("/v1/control/x", None, ("10.0.0.5", 8000), False),
        ("/v1/control/x", ("127.0.0.1", 1), None, True),
        ("/v1/fleet/x", None, None, True),
        ("/health", None, None, True),
    ],
)
def test_who_is_here(path, client, server, expected):
    assert superlink.allowed(path, client, server) is expected


def test_websockets_from_elsewhere_are_refused():
    sent = []

    async def send(message):
        sent.append(message)

    async def never(*_):
        raise AssertionError

    scope = {"type": "websocket", "path": "/v1/control/x", "client": ("8.8.8.8", 1)}
    asyncio.run(superlink.OwnMachineOnly(never)(scope, never, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
