"""`fedrai lm-eval`: measure a model with lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.options import FILE, ModelOptions, as_record, json_option, model_options

if TYPE_CHECKING:
    from fedrai.integrations.harness import HarnessSettings, TaskScore


def _settings(**values: Any) -> HarnessSettings:
    from fedrai.integrations.harness import HarnessSettings

    return HarnessSettings(**values)


@click.command("lm-eval")
@click.argument("spec", metavar="MODEL_OR_RUN")
@click.option("--tasks", required=True, metavar="A,B", help="Tasks of the harness.")
@as_record(
    "settings", _settings,
    click.option("--limit", type=click.IntRange(1),
        help="Documents of each task (default: all)."),
    click.option("--shots", type=click.IntRange(0),
        help="Examples in the prompt (default: the task's)."),
    click.option("--chat", is_flag=True, help="Put prompts into the model's chat template."),
    click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1),
        help="Prompts at once."),
    click.option("--include", type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder with tasks of your own; code in it is run."),
)  # fmt: skip
@model_options
@click.option("--out", type=FILE, help="Write the JSON to this file.")
@json_option
def lm_eval(
    spec: str,
    tasks: str,
    settings: HarnessSettings,
    model: ModelOptions,
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
    target = model.load(spec)
    scores = harness.measure(
        target.model,
        target.adapter,
        [name.strip() for name in tasks.split(",") if name.strip()],
        settings,
    )
    text = json_text(_body(target.label, settings, scores)).rstrip("\n")
    if out is not None:
        with writing(out, EvaluationError):
            write_text(out, text + "\n")
    if as_json:
        click.echo(text)
        return
    _show(target.label, scores, settings.limit)
    if out is not None:
        click.echo(f"figures: {out}")


def _body(label: str, settings: HarnessSettings, scores: Sequence[TaskScore]) -> dict[str, Any]:
    from fedrai.integrations.harness import harness_version

    return {
        "model": label,
        "lm_eval": harness_version(),
        "limit": settings.limit,
        "shots": settings.shots,
        "chat": settings.chat,
        "scores": [score.to_json() for score in scores],
    }


def _show(label: str, scores: list[TaskScore], limit: int | None) -> None:
    from fedrai.cli.show.tables import print_table

    columns = ["task", "metric", "filter", label, "standard error", "documents"]
    print_table(columns, [_row(score) for score in scores], words=3)
    if limit is not None:
        click.echo(f"at most {limit} documents of each task: not to be compared with full results")


def _row(score: TaskScore) -> list[str]:
    error = "not known" if score.stderr is None else f"{score.stderr:.4f}"
    count = "" if score.count is None else f"{score.count:,}"
    return [score.task, score.metric, score.filter, f"{score.value:.4f}", error, count]
