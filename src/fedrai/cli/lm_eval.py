"""The command line of `fedrai lm-eval`. No logic, no heavy import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fedrai.integrations.harness import TaskScore


@click.command("lm-eval")
@click.argument("what", metavar="MODEL_OR_RUN")
@click.option("--tasks", required=True, metavar="A,B", help="Tasks of the harness.")
@click.option("--limit", type=click.IntRange(1), help="Documents of each task (default: all).")
@click.option(
    "--shots", type=click.IntRange(0), help="Examples in the prompt (default: the task's)."
)
@click.option("--chat", is_flag=True, help="Put prompts into the model's chat template.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1))
@click.option("--include", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with tasks of your own; code in it is run.")  # fmt: skip
@click.option("--round", "number", type=int, help="Round of the run (default: the last).")
@click.option("--client", default="", help="Whose adapter, for runs in local mode.")
@click.option("--base", default="", metavar="MODEL",
    help="Base model of the run or adapter, if it lies elsewhere now.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def lm_eval(
    what: str,
    tasks: str,
    limit: int | None,
    shots: int | None,
    chat: bool,
    batch_size: int,
    include: Path | None,
    number: int | None,
    client: str,
    base: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure general ability with lm-evaluation-harness (extra `lm-eval`).

    MODEL_OR_RUN: a run, an adapter folder, fedrai:aligned or a model, as for `fedrai eval`.
    """
    from fedrai.errors import EvaluationError
    from fedrai.integrations import harness
    from fedrai.runs.files import json_text, write_text, writing

    harness.check()
    if out is not None and not out.parent.is_dir():
        raise click.UsageError(f"--out: there is no folder {out.parent}")
    from fedrai.federation.run.targets import target

    chosen = target(what, number, client, base=base)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    settings = harness.HarnessSettings(limit or 0, shots, chat, batch_size, include)
    scores = harness.measure(chosen.model, chosen.adapter, names, settings)
    body = {
        "model": chosen.label,
        "lm_eval": harness.harness_version(),
        "limit": limit,
        "shots": shots,
        "chat": chat,
        "scores": [score.to_json() for score in scores],
    }
    text = json_text(body).rstrip("\n")
    if out is not None:
        with writing(out, EvaluationError):
            write_text(out, text + "\n")
    if as_json:
        click.echo(text)
        return
    _show(chosen.label, scores, limit)
    if out is not None:
        click.echo(f"figures: {out}")


def _show(label: str, scores: list[TaskScore], limit: int | None) -> None:
    from fedrai.cli.show.display import print_table

    columns = ["task", "metric", "filter", label, "standard error", "documents"]
    print_table(columns, [_row(score) for score in scores], words=3)
    if limit is not None:
        click.echo(f"at most {limit} documents of each task: not to be compared with full results")


def _row(score: TaskScore) -> list[str]:
    error = "not known" if score.stderr is None else f"{score.stderr:.4f}"
    count = "" if score.count is None else f"{score.count:,}"
    return [score.task, score.metric, score.filter, f"{score.value:.4f}", error, count]
