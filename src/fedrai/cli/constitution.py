"""The command line of constitutions: `fedrai constitution`. No logic, no heavy import."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fedrai.constitution import Constitution, Demonstration, Principle
    from fedrai.constitution.checking import Report

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
WIDTH = 100  # columns of readable output


@click.group("constitution")
def constitution() -> None:
    """What a model criticises and revises its answers by: show it, check your own."""


@constitution.command("show")
@click.argument("file", metavar="[FILE]", default="embedded")
@_JSON
def constitution_show(file: str, as_json: bool) -> None:
    """Print the constitution of FILE (TOML or JSON), or the one that comes along."""
    from fedrai.constitution import load

    found = load(file)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _show(found)


@constitution.command("check")
@click.argument("file", metavar="FILE")
@_JSON
def constitution_check(file: str, as_json: bool) -> None:
    """Validate FILE; say what it covers, what it lacks, and what a small model cannot follow."""
    from fedrai.constitution import load
    from fedrai.constitution.checking import check

    report = check(load(file))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show_report(report)
    for warning in report.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)


# --- readable output ------------------------------------------------------------------------------


def _show(found: Constitution) -> None:
    click.echo(f"{_title(found.name, found.version, found.hash)}")
    for entry in found.principles:
        _show_principle(entry)
    for number, shown in enumerate(found.demonstrations, 1):
        _show_demonstration(number, shown)


def _show_principle(entry: Principle) -> None:
    click.echo()
    click.secho(f"{entry.id}: {entry.title}", bold=True)
    _field("for", ", ".join(entry.categories) or "any request")
    if entry.look_for:
        _field("look for", entry.look_for)
    _field("critique", entry.critique_request)
    _field("revision", entry.revision_request)


def _show_demonstration(number: int, shown: Demonstration) -> None:
    click.echo()
    click.secho(f"demonstration {number} ({shown.principle or 'requests of its own'})", bold=True)
    for turn in shown.turns:
        _field(turn.role, turn.content)


def _field(name: str, text: str) -> None:
    margin = " " * 13
    head = f"  {name:<11}"
    click.echo(textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=margin))


def _show_report(report: Report) -> None:
    from fedrai.cli.show.display import print_table

    print_table(
        ["principle", "categories", "demonstrations", "tokens"],
        [
            [e.id, ", ".join(e.categories) or "any request", str(e.demonstrations), str(e.tokens)]
            for e in report.principles
        ],
        words=2,
    )
    general = sum(not entry.categories for entry in report.principles)
    click.echo(_title(report.name, report.version, report.hash))
    click.echo(f"principles: {len(report.principles)}, {general} of them for any request")
    click.echo(
        f"demonstrations: {report.demonstrations}, about {report.demonstration_tokens:,} tokens"
    )
    click.echo(f"categories without a principle: {', '.join(report.uncovered) or 'none'}")


def _title(name: str, version: str, digest: str) -> str:
    return f"{name}{f' {version}' if version else ''}, sha256 {digest}"
