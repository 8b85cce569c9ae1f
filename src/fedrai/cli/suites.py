"""`fedrai suites`: the suites that models are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.options import json_option
from fedrai.cli.output import print_json

if TYPE_CHECKING:
    from fedrai.evaluation.suites import Declaration, NotAvailable, Suite


@click.group("suites")
def suites() -> None:
    """Suites of prompts that models are asked: declared ones, and files of your own."""


@suites.command("list")
@click.option("--outside", is_flag=True, help="The outside sets instead: those of `fedrai eval"
    " --outside`, and those that are known by name and need a path.")  # fmt: skip
@json_option
def suites_list(outside: bool, as_json: bool) -> None:
    """List the declared suites and where each comes from."""
    if outside:
        _list_outside(as_json)
        return
    from fedrai import plugins
    from fedrai.evaluation.suites import GROUPS, declared_suites
    from fedrai.evaluation.suites.loading import SUITES

    entries = declared_suites()
    if as_json:
        print_json({name: {**one.to_json(), "here": _here(one)} for name, one in entries.items()})
        return
    from fedrai.cli.show.tables import print_table

    columns = ["name", "what", "judge", "good is", "licence", "here", "items"]
    rows = [
        [name, entry.what, entry.judge, f"{entry.metric} {entry.direction}", entry.licence,
         _here(entry), str(entry.count)]
        for name, entry in entries.items()
    ]  # fmt: skip
    print_table(columns, rows, words=6)
    for group, names in GROUPS.items():
        click.echo(f"{group} stands for {' and '.join(names)}")
    for name in plugins.names(SUITES):
        click.echo(f"{name}: of the installed package {plugins.package(SUITES, name)}")
    click.echo("from a file of yours: NAME=PATH; a suite of your own: the path of a JSONL")


def _list_outside(as_json: bool) -> None:
    from fedrai import assets
    from fedrai.evaluation.suites.split import split

    sets = [one for one in split().values() if one.use == "outside"]
    if as_json:
        print_json({
            one.name: {"title": one.title, "side": one.side, "manner": one.manner,
                       "licence": one.licence, "home": one.home, "note": one.note,
                       "source": assets.parse(one.source).label if one.source else ""}
            for one in sets
        })  # fmt: skip
        return
    from fedrai.cli.show.tables import print_table

    rows = [
        [one.name, one.title, one.side, one.manner, one.licence,
         ("yes" if assets.status(one.source).cached else "to fetch") if one.source
         else "from your path"]
        for one in sets
    ]  # fmt: skip
    print_table(["name", "what", "side", "manner", "licence", "here"], rows, words=6)
    click.echo("from a file of yours: fedrai eval MODEL --outside-set NAME=PATH")


@suites.command("show")
@click.argument("spec", metavar="SUITE")
@click.option("--fetch", is_flag=True, help="Download it if it is not here.")
@json_option
@click.pass_context
def suites_show(context: click.Context, spec: str, fetch: bool, as_json: bool) -> None:
    """Describe SUITE; its prompts are not printed.

    SUITE: a name of `fedrai suites list`, xstest for both of its sides, NAME=PATH for it from a
    file or folder of yours, or the path of a suite of your own. Exit code 1 if --fetch fails.
    """
    from fedrai import assets
    from fedrai.evaluation.suites import expand, load

    progress = assets.RichProgress() if fetch else None
    each = [
        _facts(load(one, offline=not fetch, progress=progress), fetch) for one in expand([spec], {})
    ]
    if as_json:
        print_json(each[0] if len(each) == 1 else each)
    else:
        click.echo("\n\n".join(map(_text, each)))
    context.exit(1 if fetch and not all(facts["available"] for facts in each) else 0)


def _facts(suite: Suite | NotAvailable, fetched: bool) -> dict[str, Any]:
    """The facts of a suite, or why it is not available."""
    from fedrai.evaluation.clusters import clusters
    from fedrai.evaluation.suites import NotAvailable, declared_suites

    if isinstance(suite, NotAvailable):
        entry = declared_suites().get(suite.name)
        hint = suite.hint if fetched or not (entry and entry.source) else "fetch it: --fetch"
        reason = {"available": False, "reason": suite.reason, "hint": hint}
        return {**(entry.to_json() if entry else {"name": suite.name}), **reason}
    prompts = [item.prompt for item in suite.items]
    facts = {**suite.to_json(), "available": True, "clusters": len(set(clusters(prompts)))}
    return facts if suite.declaration.count else {k: v for k, v in facts.items() if k != "count"}


def _text(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {_cell(value)}" for name, value in facts.items())


def _here(entry: Declaration) -> str:
    from fedrai import assets

    if not entry.source:
        return "from your path"
    specs = [spec for spec in (entry.source, entry.companion) if spec]
    return "yes" if all(assets.status(spec).cached for spec in specs) else "to fetch"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    return str(value) or "-"
