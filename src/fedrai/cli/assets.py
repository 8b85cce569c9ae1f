"""`fedrai assets`: list, fetch and verify models and datasets."""

from __future__ import annotations

import click

from fedrai.cli.options import json_option
from fedrai.cli.output import print_json


@click.group("assets")
def assets_group() -> None:
    """Models and datasets: list them, fetch them, verify their checksums."""


@assets_group.command("list")
@json_option
def assets_list(as_json: bool) -> None:
    """List the named assets and whether they are cached."""
    from fedrai import assets

    states = {name: assets.status(name) for name in assets.CATALOGUE}
    if as_json:
        keys = ("cached", "bytes", "sha256", "licence")
        print_json({n: {key: getattr(s, key) for key in keys} for n, s in states.items()})
        return
    from fedrai.cli.show.tables import print_table

    rows = [
        [name, entry.what, entry.licence, "yes" if states[name].cached else "no",
         assets.format_bytes(entry.bytes)]
        for name, entry in assets.CATALOGUE.items()
    ]  # fmt: skip
    print_table(["name", "what", "licence", "cached", "size"], rows, words=4)
    click.echo(f"cache: {assets.cache_root()}")


@assets_group.command("fetch")
@click.argument("specs", metavar="ASSET...", nargs=-1, required=True)
def assets_fetch(specs: tuple[str, ...]) -> None:
    """Fetch assets into the cache and verify them."""
    from fedrai import assets

    for spec in specs:
        click.echo(f"{spec}: {assets.fetch(spec, progress=assets.RichProgress())}")


@assets_group.command("verify")
@click.argument("specs", metavar="[ASSET...]", nargs=-1)
def assets_verify(specs: tuple[str, ...]) -> None:
    """Hash cached assets again and compare (default: all that are cached)."""
    from fedrai import assets

    chosen = specs or tuple(name for name in assets.CATALOGUE if assets.status(name).cached)
    if not chosen:
        click.echo("nothing is cached")
    for spec in chosen:
        click.echo(f"{spec}: sha256 {assets.verify(spec).sha256} ok")
