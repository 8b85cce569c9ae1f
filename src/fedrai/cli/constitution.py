"""`fedrai constitution`: show a constitution, check your own."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from fedrai.cli.options import json_option
from fedrai.cli.output import print_json, warn

if TYPE_CHECKING:
    from fedrai.constitution import Constitution, Demonstration, Principle
    from fedrai.constitution.checking import Report

WIDTH = 100  # columns of readable output


@click.group("constitution")
def constitution() -> None:
    """The principles by which a model criticises and revises its answers."""


@constitution.command("show")
@click.argument("file", metavar="[FILE]", default="embedded")
@json_option
def constitution_show(file: str, as_json: bool) -> None:
    """Print the constitution of FILE (TOML or JSON), or the embedded one."""
    from fedrai.constitution import load

    document = load(file)
    if as_json:
        print_json(document.to_json())
    else:
        _show(document)


@constitution.command("check")
@click.argument("file", metavar="FILE")
@json_option
def constitution_check(file: str, as_json: bool) -> None:
    """Validate FILE; name what it covers, what it lacks, and what a small model cannot follow."""
    from fedrai.constitution import load
    from fedrai.constitution.checking import check

    report = check(load(file))
    if as_json:
        print_json(report.to_json())
    else:
        _show_report(report)
    for warning in report.warnings:
        warn(f"warning: {warning}")


# --- readable output ------------------------------------------------------------------------------


def _show(document: Constitution) -> None:
    click.echo(_title(document.name, document.version, document.hash))
    for entry in document.principles:
        _show_principle(entry)
    for number, demonstration in enumerate(document.demonstrations, 1):
        _show_demonstration(number, demonstration)


def _show_principle(entry: Principle) -> None:
    click.echo()
    click.secho(f"{entry.id}: {entry.title}", bold=True)
    _field("for", ", ".join(entry.categories) or "any request")
    if entry.look_for:
        _field("look for", entry.look_for)
    _field("critique", entry.critique_request)
    _field("revision", entry.revision_request)


def _show_demonstration(number: int, demonstration: Demonstration) -> None:
    click.echo()
    title = demonstration.principle or "requests of its own"
    click.secho(f"demonstration {number} ({title})", bold=True)
    for turn in demonstration.turns:
        _field(turn.role, turn.content)


def _field(name: str, text: str) -> None:
    margin = " " * 13
    head = f"  {name:<11}"
    click.echo(textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=margin))


def _show_report(report: Report) -> None:
    from fedrai.cli.show.tables import print_table

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
