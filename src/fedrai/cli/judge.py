"""The command line of judges: `fedrai judge`. No logic, no heavy import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.reading import reading_of, reading_options
from fedrai.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedrai.evaluation.agreement import Agreement, AgreementFigures, Disagreement, JudgedAnswer
    from fedrai.evaluation.answer_judges import HarmAgreement
    from fedrai.evaluation.labelled_answers import LabelledAnswer
    from fedrai.rates import Rate

MOST_ROWS = 20  # of one kind that a table names; the JSON has them all


@click.group("judge")
def judge() -> None:
    """Judges of answers: how far they agree with people."""


@judge.command("eval")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--judge",
    "name",
    metavar="rule|legacy|guard|rubric|NAME",
    default="rule",
    show_default=True,
    help="The refusal rule, the keyword score of OpenFedLLM, a guard, an LLM, or a judge of an"
    " installed package.",
)
@click.option("--guard", default="", help="Name of the guard (default: embedded).")
@click.option("--threshold", default="", metavar="NAME|NUMBER",
    help="The guard's: strict (default), loose, or a probability.")  # fmt: skip
@click.option("--judge-url", default="", help="Endpoint of the LLM; rows are sent there.")
@click.option("--judge-model", default="", help="Its name there.")
@click.option("--judge-key-env", default="", help="Environment variable with its key.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def judge_eval(
    files: tuple[str, ...],
    name: str,
    encoding: str,
    separator: str,
    max_row_mb: float,
    max_unpacked_mb: float,
    as_json: bool,
    **options: str,
) -> None:
    """Compare a judge of answers with people's labels.

    FILE: completions of XSTest (prompt, completion, final_label), PyRIT's refusal set (the asset
    pyrit-refusal, or a CSV like it), or answers that you have labelled (`fedrai judge export`; CSV
    or JSONL with prompt, answer, label). Prints figures and the numbers of the rows that the judge
    sees otherwise, never an answer.
    """
    from fedrai.evaluation.labelled_answers import load

    _check_options(name, options)
    rows = load(files, lambda source, count: click.echo(
        f"{source}: {count:,} rows without a label are left out", err=True),
        reading_of(encoding, separator, max_row_mb, max_unpacked_mb))  # fmt: skip
    if name == "guard":
        _guard_eval(rows, options, as_json)
    else:
        _label_eval(name, _label_verdicts(name, rows, options), as_json)


@judge.command("export")
@click.argument("place", metavar="RUN_OR_EVALUATION", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="A .csv or .jsonl that is not there yet.")  # fmt: skip
@click.option("--suite", "suites", multiple=True, help="Only this suite; repeatable.")
@click.option("--count", default=0, type=click.IntRange(0), help="Of each suite, drawn; 0: all.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
def judge_export(place: Path, out: Path, suites: tuple[str, ...], count: int, seed: int) -> None:
    """Write an evaluation's answers for people to label.

    RUN_OR_EVALUATION: a run (its last evaluation), a folder of evaluations/, or a suite's file in
    one. Fill the column label: full refusal, partial refusal or compliance; then `fedrai judge eval
    FILE`. The file holds what the model said, harmful answers too; none is printed.
    """
    from fedrai.evaluation.labelling import export

    counts = export(place, out, suites, count, seed)
    click.echo(f"{out}: {', '.join(f'{n:,} of {name}' for name, n in counts.items())}")
    click.echo("labels: full refusal, partial refusal, compliance; rows left empty do not count")


def _check_options(name: str, options: Mapping[str, str]) -> None:
    """See that options that were given are for the judge that was chosen."""
    for key, value in options.items():
        owner = "rubric" if key.startswith("judge_") else "guard"
        if value and owner != name:
            raise click.UsageError(f"--{key.replace('_', '-')} is for --judge {owner}")


def _label_verdicts(
    name: str, rows: Sequence[LabelledAnswer], options: Mapping[str, str]
) -> list[JudgedAnswer]:
    from fedrai.evaluation.agreement import JUDGES, judge_answers, with_verdicts

    if name in JUDGES:
        return judge_answers(rows, JUDGES[name])
    from fedrai.cli.show.display import Display
    from fedrai.federation.run.judging import endpoint_for, installed_verdicts, rubric_verdicts

    if name != "rubric":
        with Display() as display:
            return with_verdicts(rows, installed_verdicts(name, rows, display))
    url, model, key_env = (options[f"judge_{key}"] for key in ("url", "model", "key_env"))
    if not (url and model):
        raise EvaluationError(
            "the judge rubric is an LLM behind an endpoint",
            hint="name it: --judge-url http://localhost:8000/v1 --judge-model NAME",
        )
    endpoint = endpoint_for({"url": url, "model": model, "api_key_env": key_env})
    with Display() as display:
        return with_verdicts(rows, *rubric_verdicts(rows, endpoint, display))


def _label_eval(name: str, rows: Sequence[JudgedAnswer], as_json: bool) -> None:
    from fedrai.evaluation.agreement import agreement, by_source, disagreements

    sources, whole, others = by_source(rows), agreement(rows), disagreements(rows)
    if as_json:
        _print_json({"judge": name}, sources, whole, others)
        return
    _show({**sources, "all": whole} if len(sources) > 1 else sources)
    _show_table(whole)
    _show_disagreements(others, len(rows))


def _guard_eval(rows: Sequence[LabelledAnswer], options: Mapping[str, str], as_json: bool) -> None:
    from fedrai.cli.show.guards import GuardProgress
    from fedrai.evaluation.answer_judges import (
        by_guard,
        harm_agreement,
        harm_by_source,
        harm_disagreements,
    )
    from fedrai.federation.run.judging import guard_judge

    guard = guard_judge(options["guard"] or "embedded", options["threshold"] or "strict")
    with GuardProgress(guard.name) as watch:
        verdicts = by_guard(rows, guard, watch)
    sources, whole = harm_by_source(rows, verdicts), harm_agreement(rows, verdicts)
    others = harm_disagreements(rows, verdicts)
    if as_json:
        head = {"judge": "guard", "guard": guard.name, "threshold": guard.threshold,
                "measures": "harm"}  # fmt: skip
        _print_json(head, sources, whole, others)
        return
    _show_harm({**sources, "all": whole} if len(sources) > 1 else sources)
    _show_disagreements(others, len(rows))


def _print_json(
    head: Mapping[str, Any],
    sources: Mapping[str, Any],
    whole: Any,
    others: Sequence[Disagreement],
) -> None:
    from dataclasses import asdict

    body = {
        **head,
        "all": whole.to_json(),
        "sources": {source: value.to_json() for source, value in sources.items()},
        "disagreements": [asdict(row) for row in others],
    }
    click.echo(json.dumps(body, indent=2))


# --- readable output ------------------------------------------------------------------------------


def _show(found: dict[str, Agreement]) -> None:
    from fedrai.cli.show.display import print_table

    print_table(
        ["answers", "number", "agree", "kappa", "missed refusals", "false refusals"],
        [
            [source, str(sum(value.table.values())), _accuracy(value.two), _kappa(value.two),
             _rate(value.missed), _rate(value.false)]
            for source, value in found.items()
        ],
    )  # fmt: skip


def _show_table(found: Agreement) -> None:
    from fedrai.cli.show.display import print_table
    from fedrai.evaluation.agreement import LABELS

    verdicts = [v for v in (*LABELS, None) if any(found.table[x, v] for x in LABELS)]
    print_table(
        ["people say", *(f"judge: {v.value if v else 'unscored'}" for v in verdicts)],
        [[label.value, *(str(found.table[label, v]) for v in verdicts)] for label in LABELS],
    )
    if found.three:
        click.echo(f"three ways: agree {_accuracy(found.three)}, kappa {_kappa(found.three)}")
    click.echo(
        "agree, missed and false in % with 95 % intervals; a partial refusal counts as a refusal"
    )


def _show_harm(found: Mapping[str, HarmAgreement]) -> None:
    from fedrai.cli.show.display import print_table

    print_table(
        ["answers", "number", "agree", "kappa", "harm let through", "refusals flagged",
         "harmless answers flagged", "left out"],
        [
            [source, str(value.number), _accuracy(value.whole), _kappa(value.whole),
             _rate(value.missed), _rate(value.refusals), _rate(value.harmless),
             str(value.left_out)]
            for source, value in found.items()
        ],
    )  # fmt: skip
    click.echo(
        "a guard judges harm, not refusal: by the labels, what goes along with an unsafe request is"
        " harmful, all else is not; left out: goes along, and the request is not known as either"
    )


def _show_disagreements(rows: Sequence[Disagreement], of: int) -> None:
    """The rows by file and verdicts; why replies of an LLM have none."""
    from fedrai.cli.show.display import print_table

    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for row in rows:
        groups.setdefault((row.file, row.people, row.judge, row.problem), []).append(row.row)
    if not groups:
        click.echo(f"none of the {of:,} rows is seen otherwise")
        return
    cells = [[*key, _numbers(numbers)] for key, numbers in groups.items()]
    columns = ["file", "people say", "judge says", "why", "rows"]
    if not any(row.problem for row in rows):
        columns.remove("why")
        cells = [[*line[:3], line[4]] for line in cells]
    print_table(columns, cells, f"seen otherwise, or not scored: {len(rows):,} of {of:,}",
                words=len(columns))  # fmt: skip
    if any(row.problem for row in rows):
        click.echo(
            "a rubric's reply ends with one line, and nothing behind it: verdict: full refusal,"
            " verdict: partial refusal, or verdict: compliance"
        )


def _numbers(rows: Sequence[int]) -> str:
    """`3, 17, 40`; the first ones where there are many."""
    left = len(rows) - MOST_ROWS
    shown = ", ".join(map(str, rows[:MOST_ROWS]))
    return f"{shown} and {left:,} more (--json)" if left > 0 else shown


def _accuracy(found: AgreementFigures) -> str:
    value, ends = found.accuracy.value, found.accuracy_ends
    if value is None or ends is None:
        return "no data"
    return f"{100 * value:.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def _kappa(found: AgreementFigures) -> str:
    if found.kappa is None or found.kappa_ends is None:
        return "no data"
    return f"{found.kappa:.2f} [{found.kappa_ends[0]:.2f}, {found.kappa_ends[1]:.2f}]"


def _rate(value: Rate) -> str:
    return f"{value.successes}/{value.scored}: {value.format()}"
