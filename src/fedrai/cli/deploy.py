"""The command line of `fedrai deploy`. No logic, no heavy import."""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "not tried": "cyan"}


@click.group("deploy")
def deploy() -> None:
    """Set up a deployment across organisations, and check it before it starts."""


@deploy.command("init")
@FOLDER
@click.option("--server", required=True, metavar="HOST[:PORT]",
    help="The SuperLink as the nodes reach it (port: 8000).")  # fmt: skip
@click.option("--node", "nodes", multiple=True, required=True, metavar="NAME",
    help="A client's name; give it once for each.")  # fmt: skip
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path),
    help="Its base model is what the nodes' policies allow.")  # fmt: skip
@click.option("--days", default=365, show_default=True, type=click.IntRange(1),
    help="How long the server's certificate is valid.")  # fmt: skip
@click.option("--insecure", is_flag=True,
    help="Plain connections, and any node may join: for trials on one machine.")  # fmt: skip
def init_command(
    folder: Path,
    server: str,
    nodes: tuple[str, ...],
    recipe_file: Path | None,
    days: int,
    insecure: bool,
) -> None:
    """Make a consortium's FOLDER: CA, certificate, keys, settings and services for each machine."""
    from fedrai import recipe
    from fedrai.deployment import setup as deployments
    from fedrai.deployment.setup.settings import DEFAULT_PORT, parse_address

    address = parse_address(server, DEFAULT_PORT)
    models = (recipe.load(recipe_file).model.base,) if recipe_file else ()
    wanted = deployments.Consortium(
        folder.resolve().name, address, nodes, days, insecure, base_models=models
    )
    for made in deployments.init(folder, wanted):
        click.echo(made)
    for name in deployments.relative_models(wanted):
        click.secho(
            f"model.base = {name} is a relative path: every node looks for it below its own folder",
            fg="yellow", err=True,
        )  # fmt: skip
    if insecure:
        click.secho("plain connections: for trials on one machine only", fg="yellow", err=True)
    click.echo(f"who does what, in order: {folder / 'README.md'}")


@deploy.command("add-node")
@FOLDER
@click.argument("name")
def add_node_command(folder: Path, name: str) -> None:
    """Make the folder of one more node NAME in a consortium's FOLDER."""
    from fedrai.deployment import setup as deployments

    click.echo(deployments.add_node(folder, name))
    click.echo(f"give it to the operator of {name}, and to nobody else")
    if not deployments.read(folder).insecure:
        click.echo(
            f"copy {folder}/server/nodes/{name}.pub to the server, then there:"
            "  fedrai deploy register SERVER_FOLDER"
        )


@deploy.command("renew")
@FOLDER
@click.option("--days", default=365, show_default=True, type=click.IntRange(1),
    help="How long it is valid.")  # fmt: skip
def renew_command(folder: Path, days: int) -> None:
    """Make a new server certificate in a consortium's FOLDER; nodes need nothing new."""
    from fedrai.deployment import setup as deployments

    made = deployments.renew(folder, days)
    click.echo(f"{made}\n{made.with_name('server.key')}")
    click.echo("copy both to the server and start its SuperLink again")


@deploy.command("check")
@FOLDER
@click.option("--server", metavar="HOST[:PORT]",
    help="For a node: reach the SuperLink here, instead of where the folder says.")  # fmt: skip
@click.option("--load", is_flag=True, help="Load the guards too (slow).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@click.pass_context
def check_command(
    context: click.Context, folder: Path, server: str | None, load: bool, as_json: bool
) -> None:
    """Check a node's FOLDER before it joins, or the server's; exit code 1 if anything failed."""
    from dataclasses import asdict

    from fedrai.deployment import setup as deployments
    from fedrai.deployment.setup.settings import DEFAULT_PORT, parse_address

    address = parse_address(server, DEFAULT_PORT) if server else None
    found = deployments.check(folder, server=address, load=load)
    if as_json:
        click.echo(json.dumps([asdict(line) for line in found], indent=2))
    else:
        for line in found:
            state = click.style(f"{line.state:9}", fg=STYLES[line.state])
            click.echo(f"{state} {line.name}: {line.found}")
            if line.advice:
                click.echo(f"          {line.advice}")
    context.exit(1 if any(line.state == "failed" for line in found) else 0)


@deploy.command("start")
@FOLDER
@click.option("--dry-run", is_flag=True, help="Only print the command with its environment.")
def start_command(folder: Path, dry_run: bool) -> None:
    """Start the SuperLink of a server's FOLDER, or the SuperNode of a node's."""
    from fedrai.deployment.setup import starting

    start = starting.command_of(folder)
    if dry_run:
        click.echo(start.line())
        return
    starting.run(start)


@deploy.command("register")
@FOLDER
def register_command(folder: Path) -> None:
    """Make the nodes' public keys known to the SuperLink that runs from a server's FOLDER."""
    from fedrai.deployment import setup as deployments

    for name, new in deployments.register(folder).items():
        click.echo(f"{name}: {'registered' if new else 'was registered already'}")
