"""`fedrai release`, `fedrai sign`, `fedrai verify`: what is handed out, and its check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.options import FILE, FOLDER, PATH, as_record, base_option, json_option
from fedrai.cli.output import print_json, warn

if TYPE_CHECKING:
    from fedrai.release.bars import Bar
    from fedrai.release.deciding import Decision
    from fedrai.release.releasing import ReleaseOptions

_STYLES = {"met": "green", "missed": "red", "not settled": "yellow", "not measured": "cyan"}


def _options(**values: Any) -> ReleaseOptions:
    from fedrai.release.releasing import ReleaseOptions

    return ReleaseOptions(**values)


@click.command("release")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--out", type=PATH, help="New folder (default: RUN-release).")
@as_record(
    "options", _options,
    click.option("--bars", type=FILE, help="TOML file with [release], in place of the recipe's."),
    click.option("--budget", type=click.IntRange(0),
        help="Most items of each outside set; 0: only those that the run asked."),
    click.option("--merged", is_flag=True, help="The whole model with the adapter merged in."),
    click.option("--key", "keys", type=FILE, multiple=True, metavar="FILE",
        help="Sign with this private key (fedrai deploy release-key); repeatable."),
    click.option("--serial", type=click.IntRange(0),
        help="Serial number, above that of the last release (default: the time)."),
    base_option,
)  # fmt: skip
@json_option
@click.pass_context
def release_command(
    context: click.Context,
    run_folder: Path,
    out: Path | None,
    options: ReleaseOptions,
    as_json: bool,
) -> None:
    """Judge the model of a run by the bars of [release]; hand it out only if it meets them.

    The last round is judged first, then earlier ones. Exit code 1: none passes.
    """
    from fedrai.cli.show.display import Display
    from fedrai.release.releasing import release as write_release

    source = run_folder if run_folder.name not in ("", "..") else run_folder.resolve()
    folder = out or source.with_name(f"{source.name}-release")
    with Display() as display:
        decision = write_release(run_folder, folder, options, display)
    passed = decision.released is not None
    if as_json:
        print_json(_json(decision, folder if passed else None))
    else:
        _show(decision, folder if passed else None, signed=bool(options.keys))
    context.exit(0 if passed else 1)


def _json(decision: Decision, folder: Path | None) -> dict[str, Any]:
    rounds = [
        {"round": one.number, "passes": one.passes, "bars": [bar.to_json() for bar in one.bars]}
        for one in decision.judged
    ]
    return {"decision": decision.line, "release": folder and str(folder), "rounds": rounds}


def _show(decision: Decision, folder: Path | None, *, signed: bool) -> None:
    for judged in decision.judged:
        click.echo(f"round {judged.number}:")
        for bar in judged.bars:
            _show_bar(bar)
    if folder is None:
        click.secho(decision.line, fg="red")
        return
    if decision.is_rollback:
        warn(decision.line)
    else:
        click.secho(decision.line, fg="green")
    click.echo(f"release: {folder}")
    if not signed:
        click.echo(f"  nobody has signed it:  fedrai sign {folder} --key KEY")


def _show_bar(bar: Bar) -> None:
    state = click.style(f"{bar.standing:12}", fg=_STYLES[bar.standing])
    mark = "" if bar.required else "  (not required)"
    click.echo(f"  {state} {bar.name}: {bar.found}; {bar.limit}{mark}")


@click.command("sign")
@click.argument("folder", metavar="RELEASE", type=FOLDER)
@click.option("--key", type=FILE, required=True, help="Private key (fedrai deploy release-key).")
def sign_command(folder: Path, key: Path) -> None:
    """Add a signature to a release, beside those of others."""
    from fedrai.release.signing import add_signature

    click.echo(f"signature: {add_signature(folder, key)}")


@click.command("verify")
@click.argument("folder", metavar="RELEASE", type=PATH)
@click.option("--key", "keys", type=FILE, multiple=True, required=True, metavar="PUB",
    help="A public key that you trust; repeatable.")  # fmt: skip
@click.option("--threshold", type=click.IntRange(1), metavar="K",
    help="How many of the keys must have signed (default: all).")  # fmt: skip
@click.option("--after", type=click.IntRange(0), metavar="SERIAL",
    help="Refuse a release whose serial number is not above this one.")  # fmt: skip
@json_option
@click.pass_context
def verify_command(
    context: click.Context, folder: Path, keys: tuple[Path, ...], threshold: int | None,
    after: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Check offline that a release is what its signers signed. Exit code 1: it is not."""
    from fedrai.release.verifying import verify

    result = verify(folder, keys, threshold or 0, after)
    if as_json:
        print_json(
            {"good": not result.problems, "problems": result.problems, "signers": result.signers,
             "unknown_signers": result.others, "needed": result.needed, "release": result.record}
        )  # fmt: skip
    else:
        _show_record(result.record)
        for signer in result.signers:
            click.echo(f"signed by {signer}")
        for other in result.others:
            click.echo(f"also signed by a key that you did not give: {other[:16]}")
        for problem in result.problems:
            click.secho(f"refused: {problem}", fg="red")
        if not result.problems:
            count = f"{len(result.signers)} of {result.needed} needed signatures"
            click.secho(f"good: every byte is as signed, {count}", fg="green")
    context.exit(1 if result.problems else 0)


def _show_record(record: dict[str, Any]) -> None:
    if not record:
        return
    click.echo(
        f"{record.get('name')}, round {record.get('round')}: serial {record.get('serial')},"
        f" made {record.get('created')}, expires {record.get('expires')}"
    )
    bars = record.get("bars")
    for bar in bars if isinstance(bars, list) else []:
        if isinstance(bar, dict):
            click.echo(
                f"  {bar.get('standing')!s:12} {bar.get('name')}: {bar.get('found')};"
                f" {bar.get('limit')}"
            )
