"""`fedrai node`: take part in runs of a deployment."""

from __future__ import annotations

from pathlib import Path

import click

from fedrai.cli.options import FILE


@click.command()
@click.argument("node_file", metavar="NODE_TOML", type=FILE)
@click.option("--superlink", required=True, metavar="HOST:PORT", help="The server's SuperLink.")
@click.option("--root-certificates", type=FILE, help="PEM file of the server's authority.")
@click.option("--key", type=FILE, help="The node's private key.")
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
    """Take part in runs as NODE_TOML allows: data stays here, the base model stays loaded."""
    if insecure and (root_certificates or key):
        raise click.UsageError("--insecure takes neither certificates nor a key")
    from fedrai.deployment.supernode import Connection
    from fedrai.deployment.worker import run_node

    connection = Connection(superlink, root_certificates, key, insecure, port)
    run_node(node_file, connection, lambda line: click.echo(line, err=True))
