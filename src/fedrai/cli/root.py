"""The command line: arguments to one call, then what was written where. No logic, nothing heavy.

Exit codes: 0 done; 1 the run could not go on; 2 something the user gave cannot be used; 130 stopped
by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from fedrai import __version__
from fedrai.captured_log import captured
from fedrai.cli.align import align
from fedrai.cli.compare import compare
from fedrai.cli.constitution import constitution
from fedrai.cli.deploy import deploy
from fedrai.cli.eval import eval_command
from fedrai.cli.export import export
from fedrai.cli.guards import guard, scan
from fedrai.cli.judge import judge
from fedrai.cli.lm_eval import lm_eval
from fedrai.cli.node import node
from fedrai.cli.report import report
from fedrai.cli.run import run_command
from fedrai.cli.suites import suites
from fedrai.errors import FederationError, FedRAIError

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
OVERRIDE = click.option(
    "-o",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key, e.g. federation.rounds=3.",
)
ROUND = click.option("--round", "number", type=int, help="Round of the run (default: the last).")
CLIENT = click.option("--client", default="", help="Whose adapter, for runs in local mode.")
BASE = click.option(
    "--base",
    default="",
    metavar="MODEL",
    help="Base model of the run or adapter, if it lies elsewhere now.",
)


@click.group(context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fedrai")
def cli() -> None:
    """Federated fine-tuning of large language models that stays safe."""


cli.add_command(run_command)
cli.add_command(node)
cli.add_command(align)
cli.add_command(eval_command)
cli.add_command(scan)
cli.add_command(guard)
cli.add_command(constitution)
cli.add_command(deploy)
cli.add_command(suites)
cli.add_command(judge)
cli.add_command(lm_eval)
cli.add_command(export)
cli.add_command(report)
cli.add_command(compare)


def main() -> None:
    """Entry point: turns errors into one line each and an exit code."""
    _quiet()
    with captured():
        code = _called()
    sys.exit(code)


def _called() -> int:
    code: object
    try:
        code = cli.main(prog_name="fedrai", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except FedRAIError as error:
        _say(error)
        code = 1 if isinstance(error, FederationError) else 2
    return code if isinstance(code, int) else 0


def _quiet() -> None:
    """Libraries draw no progress bars beside ours, and the hub's sends no telemetry."""
    rarely = {} if sys.stderr.isatty() else {"TQDM_MININTERVAL": "30"}  # of lm-evaluation-harness
    for key, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **rarely,
    }.items():
        os.environ.setdefault(key, value)


def _say(error: FedRAIError) -> None:
    click.secho(f"error: {error.message}", fg="red", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


@cli.command("chat")
@click.argument("what", metavar="RUN_OR_MODEL")
@ROUND
@CLIENT
@BASE
@click.option("--prompt", help="Answer this once and leave.")
@click.option("--max-new-tokens", default=200, show_default=True, type=click.IntRange(1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0))
@click.option("--tuned-only", is_flag=True, help="Do not show the base model's answer.")
def chat_command(
    what: str,
    number: int | None,
    client: str,
    base: str,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    tuned_only: bool,
) -> None:
    """Talk to the base and the tuned model side by side."""
    from fedrai.cli import chat
    from fedrai.federation.run.targets import target

    chosen = target(what, number, client, base=base)
    chat.talk(
        chosen,
        prompt=prompt,
        limit=max_new_tokens,
        temperature=temperature,
        tuned_only=tuned_only,
    )


@cli.command("runs")
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@JSON
def runs_command(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER with their key figures."""
    from fedrai.cli.show.summary import LIST_COLUMNS, LIST_WORDS, list_row
    from fedrai.runs import find_runs
    from fedrai.runs.record import summarise

    found, damaged = [], False
    for run in find_runs(folder):
        try:
            found.append((run, summarise(run)))
        except FedRAIError as error:  # one damaged run hides no other
            damaged = True
            click.secho(f"not listed: {error.message}", fg="yellow", err=True)
    if as_json:
        click.echo(json.dumps({str(run.path): one.to_json() for run, one in found}, indent=2))
    elif not found and not damaged:
        click.echo(f"no runs in {folder}; start one with: fedrai run quickstart")
    elif found:
        from fedrai.cli.show.display import print_table

        rows = [[str(run.path), *list_row(summary)] for run, summary in found]
        print_table(LIST_COLUMNS, rows, words=LIST_WORDS)


@cli.group("recipe")
def recipe_group() -> None:
    """Show, check and write recipes."""


@recipe_group.command("show")
@click.argument("recipe_file", metavar="RECIPE", type=click.Path(path_type=Path))
@OVERRIDE
@click.option("--arm", help="The recipe of one arm.")
@JSON
def recipe_show(
    recipe_file: Path, overrides: tuple[str, ...], arm: str | None, as_json: bool
) -> None:
    """Print the resolved RECIPE: every key, with overrides applied."""
    from fedrai import recipe

    settings = recipe.load(recipe_file, overrides)
    settings = recipe.arm(settings, arm) if arm else settings
    click.echo(
        json.dumps(settings.model_dump(mode="json"), indent=2)
        if as_json
        else recipe.to_toml(settings),
        nl=as_json,
    )


@recipe_group.command("new")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--from", "source", default="quickstart", show_default=True, help="Recipe to begin with."
)
@OVERRIDE
def recipe_new(file: Path, source: str, overrides: tuple[str, ...]) -> None:
    """Write a commented recipe to FILE."""
    from fedrai import recipe

    recipe.write_new(file, recipe.load(Path(source), (f"name={file.stem}", *overrides)))
    click.echo(f"recipe: {file}\n  run it:  fedrai run {file}")


@cli.group("assets")
def assets_group() -> None:
    """Models and datasets: what there is, where it lies, whether it is what it should be."""


@assets_group.command("list")
@JSON
def assets_list(as_json: bool) -> None:
    """List the named assets and whether they are cached."""
    from fedrai import assets

    found = {name: assets.status(name) for name in assets.CATALOGUE}
    if as_json:
        click.echo(json.dumps({n: {"cached": s.cached, "bytes": s.bytes, "sha256": s.sha256,
                   "licence": s.licence} for n, s in found.items()}, indent=2))  # fmt: skip
        return
    from fedrai.cli.show.display import print_table

    rows = [
        [n, assets.CATALOGUE[n].what, assets.CATALOGUE[n].licence,
         "yes" if s.cached else "no", assets.format_bytes(assets.CATALOGUE[n].bytes)]
        for n, s in found.items()
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
