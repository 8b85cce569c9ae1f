"""What the recording proxy kept: arrays, and requests of a node to send a second time."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flower_cluster import Cluster
from flower_parts import PushMessagesRequest, PushMessagesResponse

LENGTH = re.compile(rb"^content-length: *(\d+)\r?$", re.IGNORECASE | re.MULTILINE)
ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '.([uf])(\d)'.{1,40}'shape': \((\d+),\)", re.DOTALL
)
PUSH = b"POST /v1/fleet/push-messages "


@dataclass(frozen=True, slots=True)
class Captured:
    """A request with which a node sent an update.

    Attributes:
        raw: all of it, head and body, with the node's signature.
        node: Flower's number of the node.
    """

    raw: bytes
    node: int


def requests_in(sent: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The whole requests of a connection, as (head with its empty line, body)."""
    while b"\r\n\r\n" in sent:
        head, _, rest = sent.partition(b"\r\n\r\n")
        found = LENGTH.search(head)
        length = int(found[1]) if found else 0
        if len(rest) < length:
            return
        yield head + b"\r\n\r\n", rest[:length]
        sent = rest[length:]


def updates(wire: Path) -> list[Captured]:
    """All replies to a round's task that were kept."""
    found = []
    for file in sorted(wire.glob("*.up")):
        for head, body in requests_in(file.read_bytes()):
            if head.startswith(PUSH):
                metadata = PushMessagesRequest.FromString(body).messages_list[0].metadata
                if metadata.message_type == "train":
                    found.append(Captured(head + body, metadata.src_node_id))
    return found


def replay(cluster: Cluster, request: Captured) -> tuple[int, int]:
    """Send it again; gives the status, and how many objects the SuperLink now asks for."""
    context = ssl.create_default_context(cafile=cluster.folder / "ca.pem")
    host, _, port = cluster.address.partition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(request.raw)
        answer = http.client.HTTPResponse(secure)
        answer.begin()
        body = answer.read()
    wanted = PushMessagesResponse.FromString(body).objects_to_push if answer.status == 200 else []
    return answer.status, len(wanted)


def last_update(cluster: Cluster, node: int) -> Captured:
    """A node's newest update on the wire of the nodes."""
    kept = updates(cluster.folder / "wire")
    return [update for update in kept if update.node == node][-1]


def arrays_in(wire: Path, way: str) -> dict[bytes, int]:
    """The arrays that were kept, each once: a digest, and its bytes with numpy's header.

    Args:
        wire: the proxy's folder.
        way: ".up" or ".down".
    """
    found = {}
    for file in sorted(wire.glob(f"*{way}")):
        sent = file.read_bytes()
        for match in ARRAY.finditer(sent):
            values = int(match[3]) * int(match[4])
            length = 10 + int.from_bytes(match[1], "little") + values
            whole = sent[match.start() : match.start() + length]
            assert len(whole) == length, "the array was not sent to its end"
            found[hashlib.sha256(whole).digest()] = length
    return found
