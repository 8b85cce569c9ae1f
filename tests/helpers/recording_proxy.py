"""`python recording_proxy.py FOLDER PORT TARGET WIRE`: takes TLS apart and keeps all bytes.

FOLDER holds the test's own `ca.pem`, `server.pem` and `server.key`. Each connection leaves two
files in FOLDER/WIRE: `NUMBER.up` with what was sent to the SuperLink, `NUMBER.down` with what came
back.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
from pathlib import Path

NUMBERS = itertools.count(1)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: Path) -> None:
    """Copy until one side ends; what is passed on has been written first."""
    try:
        with kept.open("ab", buffering=0) as file:
            while data := await reader.read(2**16):
                file.write(data)
                writer.write(data)
                await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def serve(folder: Path, port: int, target: str, wire: Path) -> None:
    """Take connections for ever."""
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    here.load_cert_chain(folder / "server.pem", folder / "server.key")
    there = ssl.create_default_context(cafile=folder / "ca.pem")
    host, _, number = target.partition(":")

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = next(NUMBERS)
        try:
            back, on = await asyncio.open_connection(host, int(number), ssl=there)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            pump(reader, on, wire / f"{count:04d}.up"),
            pump(back, writer, wire / f"{count:04d}.down"),
        )

    server = await asyncio.start_server(taken, "127.0.0.1", port, ssl=here)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    home = Path(sys.argv[1])
    asyncio.run(serve(home, int(sys.argv[2]), sys.argv[3], home / sys.argv[4]))
