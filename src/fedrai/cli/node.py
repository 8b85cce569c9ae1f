"""`fedrai node`: take part in runs of a deployment."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("node_file", metavar="NODE_TOML", type=PATH)
@click.option("--superlink", required=True, metavar="HOST:PORT", help="The server's SuperLink.")
@click.option("--root-certificates", type=PATH, help="PEM file of the server's authority.")
@click.option("--key", type=PATH, help="The node's private key.")
@click.option("--port", default=0, help="Of the node's own API, on loopback (default: any).")
@click.option("--insecure", is_flag=True, help="Connect without TLS; for tests on one machine.")
def node(
    node_file: Path,
    superlink: str,
    root_certificates: Path | None,
    key: Path | None,
    port: int,
    insecure: bool,
) -> None:
    """Take part in runs as NODE_TOML allows: data stay here, the base model stays loaded."""
    if insecure and (root_certificates or key):
        raise click.UsageError("--insecure has neither certificates nor a key")
    from fedrai.deployment.supernode import Connection
    from fedrai.deployment.worker import run_node

    run_node(node_file, Connection(superlink, root_certificates, key, insecure, port), _say)


def _say(line: str) -> None:
    click.echo(line, err=True)
