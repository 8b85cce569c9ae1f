"""The command line of `fedrai suites`. No logic, no heavy import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedrai.evaluation.suites import Declaration, NotAvailable, Suite

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.group("suites")
def suites() -> None:
    """What models are asked: the suites that are known, and files of your own."""


@suites.command("list")
@JSON
def suites_list(as_json: bool) -> None:
    """List the declared suites and where each can be had."""
    from fedrai import plugins
    from fedrai.evaluation.suites import GROUPS, declared_suites
    from fedrai.evaluation.suites.loading import SUITES

    found = {
        name: {**entry.to_json(), "here": _here(entry)} for name, entry in declared_suites().items()
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    from fedrai.cli.show.display import print_table

    columns = ["name", "what", "judge", "good is", "licence", "here", "items"]
    rows = [
        [name, entry.what, entry.judge, f"{entry.metric} {entry.direction}", entry.licence,
         _here(entry), str(entry.count)]
        for name, entry in declared_suites().items()
    ]  # fmt: skip
    print_table(columns, rows, words=6)
    for group, names in GROUPS.items():
        click.echo(f"{group} stands for {' and '.join(names)}")
    for name in plugins.names(SUITES):
        click.echo(f"{name}: of the installed package {plugins.package(SUITES, name)}")
    click.echo("from a file of yours: NAME=PATH; a suite of your own: the path of a JSONL")


@suites.command("show")
@click.argument("spec", metavar="SUITE")
@click.option("--fetch", is_flag=True, help="Download it if it is not here.")
@JSON
@click.pass_context
def suites_show(context: click.Context, spec: str, fetch: bool, as_json: bool) -> None:
    """Say what SUITE holds; its prompts are not printed.

    SUITE: a name of `fedrai suites list`, xstest for both of its sides, NAME=PATH for it from a
    file or folder of yours, or the path of a suite of your own. Exit code 1 if --fetch brings none.
    """
    from fedrai import assets
    from fedrai.evaluation import suites as work

    progress = assets.RichProgress() if fetch else None
    each = [
        _facts(work.load(one, offline=not fetch, progress=progress), fetch)
        for one in work.expand([spec], {})
    ]
    if as_json:
        click.echo(json.dumps(each[0] if len(each) == 1 else each, indent=2))
    else:
        click.echo("\n\n".join(map(_text, each)))
    context.exit(1 if fetch and not all(facts["available"] for facts in each) else 0)


def _facts(found: Suite | NotAvailable, fetched: bool) -> dict[str, Any]:
    """What is known of a suite that is here, or why it is not."""
    from fedrai.evaluation.clusters import clusters
    from fedrai.evaluation.suites import NotAvailable, declared_suites

    if isinstance(found, NotAvailable):
        entry = declared_suites().get(found.name)
        hint = found.hint if fetched or not (entry and entry.source) else "fetch it: --fetch"
        why = {"available": False, "reason": found.reason, "hint": hint}
        return {**(entry.to_json() if entry else {"name": found.name}), **why}
    prompts = [item.prompt for item in found.items]
    facts = {**found.to_json(), "available": True, "clusters": len(set(clusters(prompts)))}
    return facts if found.declaration.count else {k: v for k, v in facts.items() if k != "count"}


def _text(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {_shown(value)}" for name, value in facts.items())


def _here(entry: Declaration) -> str:
    from fedrai import assets

    if not entry.source:
        return "from your path"
    specs = [spec for spec in (entry.source, entry.companion) if spec]
    return "yes" if all(assets.status(spec).cached for spec in specs) else "to fetch"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    return str(value) or "-"
