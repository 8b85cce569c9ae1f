"""`fedrai deploy`: set up a deployment, check it, start it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from fedrai.cli.options import PATH, json_option
from fedrai.cli.output import print_json, warn

folder_argument = click.argument("folder", type=PATH)
STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "not tried": "cyan"}


@click.group("deploy")
def deploy() -> None:
    """Set up a deployment across organisations, and check it before it starts."""


@deploy.command("init")
@folder_argument
@click.option("--server", required=True, metavar="HOST[:PORT]",
    help="The SuperLink as the nodes reach it (port: 8000).")  # fmt: skip
@click.option("--node", "nodes", multiple=True, required=True, metavar="NAME",
    help="A client's name; repeat the option for each client.")  # fmt: skip
@click.option("--recipe", "recipe_file", type=PATH,
    help="The nodes' policies allow its base model.")  # fmt: skip
@click.option("--days", default=365, show_default=True, type=click.IntRange(1),
    help="How long the server's certificate is valid.")  # fmt: skip
@click.option("--insecure", is_flag=True,
    help="No encryption, and any node may join: only for trials on one machine.")  # fmt: skip
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
    from fedrai.deployment.offer import check_honest
    from fedrai.deployment.setup.settings import DEFAULT_PORT, parse_address

    address = parse_address(server, DEFAULT_PORT)
    settings = recipe.load(recipe_file) if recipe_file else None
    if settings is not None:
        check_honest(settings)
    models = (settings.model.base,) if settings else ()
    consortium = deployments.Consortium(
        folder.resolve().name, address, nodes, days, insecure, base_models=models
    )
    for path in deployments.init(folder, consortium):
        click.echo(path)
    for name in deployments.relative_models(consortium):
        warn(f"model.base = {name} is a relative path: each node resolves it in its own folder")
    if insecure:
        warn("connections are not encrypted: use --insecure only for trials on one machine")
    click.echo(f"next steps, by operator: {folder / 'README.md'}")


@deploy.command("add-node")
@folder_argument
@click.argument("name")
def add_node_command(folder: Path, name: str) -> None:
    """Make the folder of one more node NAME in a consortium's FOLDER."""
    from fedrai.deployment import setup as deployments

    click.echo(deployments.add_node(folder, name))
    click.echo(f"give it only to the operator of {name}")
    if not deployments.read(folder).insecure:
        click.echo(
            f"copy {folder}/server/nodes/{name}.pub to the server, then run there:"
            "  fedrai deploy register SERVER_FOLDER"
        )


@deploy.command("renew")
@folder_argument
@click.option("--days", default=365, show_default=True, type=click.IntRange(1),
    help="How long the certificate is valid.")  # fmt: skip
def renew_command(folder: Path, days: int) -> None:
    """Make a new server certificate in a consortium's FOLDER; nodes need no new files."""
    from fedrai.deployment import setup as deployments

    certificate = deployments.renew(folder, days)
    click.echo(f"{certificate}\n{certificate.with_name('server.key')}")
    click.echo("copy both to the server and restart its SuperLink")


@deploy.command("check")
@folder_argument
@click.option("--server", metavar="HOST[:PORT]",
    help="For a node: address of the SuperLink, instead of the folder's.")  # fmt: skip
@click.option("--load", is_flag=True, help="Load the guards too (slow).")
@json_option
@click.pass_context
def check_command(
    context: click.Context, folder: Path, server: str | None, load: bool, as_json: bool
) -> None:
    """Check a node's FOLDER before it joins, or the server's; exit code 1 if anything failed."""
    from fedrai.deployment import setup as deployments
    from fedrai.deployment.setup.settings import DEFAULT_PORT, parse_address

    address = parse_address(server, DEFAULT_PORT) if server else None
    lines = deployments.check(folder, server=address, load=load)
    if as_json:
        print_json([asdict(line) for line in lines])
    else:
        for line in lines:
            state = click.style(f"{line.state:9}", fg=STYLES[line.state])
            click.echo(f"{state} {line.name}: {line.found}")
            if line.advice:
                click.echo(f"          {line.advice}")
    context.exit(1 if any(line.state == "failed" for line in lines) else 0)


@deploy.command("start")
@folder_argument
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
@folder_argument
def register_command(folder: Path) -> None:
    """Register the nodes' public keys with the SuperLink that runs from a server's FOLDER."""
    from fedrai.deployment import setup as deployments

    for name, new in deployments.register(folder).items():
        click.echo(f"{name}: {'registered' if new else 'already registered'}")


@deploy.command("release-key")
@click.argument("file", type=PATH)
def release_key_command(file: Path) -> None:
    """Make a key pair that signs releases: FILE, which stays secret, and FILE.pub for everyone."""
    from fedrai.release.signing import write_key_pair

    private, public = write_key_pair(file)
    click.echo(f"{private}\n{public}")
    click.echo("keep the first one secret; give the second to everyone who verifies releases")
