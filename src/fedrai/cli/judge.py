"""`fedrai judge`: hold judges of answers against people's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.options import (
    FILE,
    PATH,
    as_record,
    endpoint_options,
    json_option,
    judge_option,
    reading_options,
)
from fedrai.cli.output import print_json
from fedrai.errors import EvaluationError

if TYPE_CHECKING:
    from fedrai.data import ReadOptions
    from fedrai.evaluation.agreement import Disagreement
    from fedrai.evaluation.labelled_answers import LabelledAnswer


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """The judge; what is empty was not given."""

    name: str
    guard: str
    threshold: str
    judge_url: str
    judge_model: str
    judge_key_env: str

    def check(self) -> None:
        """Refuse options that belong to another judge."""
        for key, value in asdict(self).items():
            owner = "rubric" if key.startswith("judge_") else "guard"
            if key != "name" and value and owner != self.name:
                raise click.UsageError(f"--{key.replace('_', '-')} is for --judge {owner}")

    def endpoint(self) -> dict[str, str]:
        """Keys of the LLM's endpoint; the judge rubric needs its address and the model's name."""
        if self.name == "rubric" and not (self.judge_url and self.judge_model):
            raise EvaluationError(
                "the judge rubric is an LLM behind an endpoint",
                hint="name it: --judge-url http://localhost:8000/v1 --judge-model NAME",
            )
        return {
            "url": self.judge_url, "model": self.judge_model, "api_key_env": self.judge_key_env
        }  # fmt: skip


@click.group("judge")
def judge() -> None:
    """Judges of answers: how far they agree with people."""


@judge.command("eval")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@as_record(
    "options", JudgeOptions,
    judge_option("name", default="rule", show_default=True,
        help="The refusal rule, the keyword score of OpenFedLLM, a guard, an LLM, or a judge of an"
        " installed package."),
    click.option("--guard", default="", help="Name of the guard (default: embedded)."),
    click.option("--threshold", default="", metavar="NAME|NUMBER",
        help="The guard's: strict (default), loose, or a probability."),
    endpoint_options("; rows are sent there"),
)  # fmt: skip
@reading_options
@json_option
def judge_eval(
    files: tuple[str, ...], options: JudgeOptions, read_options: ReadOptions, as_json: bool
) -> None:
    """Compare a judge of answers with people's labels.

    FILE: completions of XSTest (prompt, completion, final_label), PyRIT's refusal set (the asset
    pyrit-refusal, or a CSV like it), or answers that you have labelled (`fedrai judge export`; CSV
    or JSONL with prompt, answer, label). Prints figures and the numbers of the rows that the judge
    labels differently, never an answer.
    """
    from fedrai.evaluation.labelled_answers import load

    options.check()
    rows = load(files, _note_unlabelled, read_options)
    if options.name == "guard":
        _guard_eval(rows, options, as_json)
    else:
        _label_eval(rows, options, as_json)


def _note_unlabelled(source: str, count: int) -> None:
    click.echo(f"{source}: {count:,} rows without a label are left out", err=True)


@judge.command("export")
@click.argument("place", metavar="RUN_OR_EVALUATION", type=PATH)
@click.option("--out", required=True, type=FILE, help="A new .csv or .jsonl file.")
@click.option("--suite", "suites", multiple=True, help="Only this suite; repeatable.")
@click.option("--count", default=0, type=click.IntRange(0),
    help="Answers of each suite, drawn at random; 0: all.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
def judge_export(place: Path, out: Path, suites: tuple[str, ...], count: int, seed: int) -> None:
    """Write an evaluation's answers for people to label.

    RUN_OR_EVALUATION: a run (its last evaluation), a folder of evaluations/, or a suite's file in
    one. Fill the column label: full refusal, partial refusal or compliance; then `fedrai judge eval
    FILE`. The file holds the model's answers, harmful ones too; none is printed.
    """
    from fedrai.evaluation.labelling import export

    counts = export(place, out, suites, count, seed)
    click.echo(f"{out}: {', '.join(f'{n:,} of {name}' for name, n in counts.items())}")
    click.echo("labels: full refusal, partial refusal, compliance; rows left empty do not count")


def _label_eval(rows: Sequence[LabelledAnswer], options: JudgeOptions, as_json: bool) -> None:
    from fedrai.cli.show import judges
    from fedrai.cli.show.display import Display
    from fedrai.evaluation.agreement import (
        agreement,
        by_source,
        disagreements,
        with_verdicts,
    )
    from fedrai.federation.run.answer_judging import label_answers

    with Display() as display:
        labels = label_answers(options.name, rows, options.endpoint(), display)
    judged = with_verdicts(rows, *labels)
    sources, whole, others = by_source(judged), agreement(judged), disagreements(judged)
    if as_json:
        _print_json({"judge": options.name}, sources, whole, others)
        return
    judges.show_agreement({**sources, "all": whole} if len(sources) > 1 else sources)
    judges.show_table(whole)
    judges.show_disagreements(others, len(rows))


def _guard_eval(rows: Sequence[LabelledAnswer], options: JudgeOptions, as_json: bool) -> None:
    from fedrai.cli.show import judges
    from fedrai.cli.show.live import GuardProgress
    from fedrai.evaluation.answer_judges import (
        by_guard,
        harm_agreement,
        harm_by_source,
        harm_disagreements,
    )
    from fedrai.federation.run.answer_judging import guard_judge

    threshold = options.threshold or "strict"
    guard = guard_judge(options.guard or "embedded", threshold, progress=True)
    with GuardProgress(guard.name) as on_progress:
        verdicts = by_guard(rows, guard, on_progress)
    sources, whole = harm_by_source(rows, verdicts), harm_agreement(rows, verdicts)
    others = harm_disagreements(rows, verdicts)
    if as_json:
        head = {"judge": "guard", "guard": guard.name, "threshold": guard.threshold,
                "measures": "harm"}  # fmt: skip
        _print_json(head, sources, whole, others)
        return
    judges.show_harm({**sources, "all": whole} if len(sources) > 1 else sources)
    judges.show_disagreements(others, len(rows))


def _print_json(
    head: Mapping[str, Any],
    sources: Mapping[str, Any],
    whole: Any,
    others: Sequence[Disagreement],
) -> None:
    print_json(
        {
            **head,
            "all": whole.to_json(),
            "sources": {source: value.to_json() for source, value in sources.items()},
            "disagreements": [asdict(row) for row in others],
        }
    )
