"""`fedrai recipe`: show, check and write recipes."""

from __future__ import annotations

from pathlib import Path

import click

from fedrai.cli.options import PATH, json_option, override_option
from fedrai.cli.output import print_json


@click.group("recipe")
def recipe_group() -> None:
    """Show, check and write recipes."""


@recipe_group.command("show")
@click.argument("recipe_file", metavar="RECIPE", type=PATH)
@override_option()
@click.option("--arm", help="The recipe of one arm.")
@json_option
def recipe_show(
    recipe_file: Path, overrides: tuple[str, ...], arm: str | None, as_json: bool
) -> None:
    """Print the resolved RECIPE: every key, with overrides applied."""
    from fedrai import recipe

    settings = recipe.load(recipe_file, overrides)
    settings = recipe.arm(settings, arm) if arm else settings
    if as_json:
        print_json(settings.model_dump(mode="json"))
    else:
        click.echo(recipe.to_toml(settings), nl=False)


@recipe_group.command("new")
@click.argument("file", type=PATH)
@click.option("--from", "source", default="quickstart", show_default=True,
    help="Recipe to start from.")  # fmt: skip
@override_option()
def recipe_new(file: Path, source: str, overrides: tuple[str, ...]) -> None:
    """Write a commented recipe to FILE."""
    from fedrai import recipe

    recipe.write_new(file, recipe.load(Path(source), (f"name={file.stem}", *overrides)))
    click.echo(f"recipe: {file}\n  run it:  fedrai run {file}")
