"""The card of a trained guard: what it is, what it was trained on, how it did on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrai import __version__
from fedrai.evaluation.detection import Detection
from fedrai.recipe.sections import GuardTraining

if TYPE_CHECKING:
    from fedrai.guards.training.outcome import GuardTrainingOutcome

LAST = 20  # steps whose mean loss is given


def card(settings: GuardTraining, outcome: GuardTrainingOutcome) -> str:
    """The card in Markdown; names, counts and figures only."""
    config = outcome.guard.config
    layers = f"the first {config.layers} layers" if config.layers else "all layers"
    kinds = "".join(_line(kind, figures) for kind, figures in outcome.held_out.items())
    cuts = "".join(
        f"| {name} | {cut.value:.4f} | {cut.recall} | {cut.false_positive_rate} |\n"
        for name, cut in outcome.reached.items()
    )
    sources = "".join(
        f"| {_cell(name) or '(none)'} | {n:,} |\n" for name, n in sorted(outcome.rows.items())
    )
    last = outcome.losses[-LAST:]
    return f"""# Guard {config.name}

A FedRAI guard: {layers} of `{config.base}`, a LoRA adapter of rank {config.rank} and a linear
head. It gives a probability that a request, or an answer in the light of its request, is unsafe:
calibrated for requests; for answers moved so that one strict threshold serves both. Revision
`{outcome.guard.revision[:12]}`, made by `fedrai guard train` of FedRAI {__version__}.

Categories: {", ".join(config.categories) or "none"}.

## Held-out rows

{_held_out(settings)} At the strict
threshold, with 95 % Wilson intervals:

| judged | rows | unsafe | F1 | recall | false alarms | AUPRC | calibration error |
|---|---|---|---|---|---|---|---|
{kinds}{_uncalibrated_kinds(outcome)}
The thresholds, on the held-out rows that set them:

| threshold | from | recall | false alarms |
|---|---|---|---|
{cuts}
## Trained on

{sum(outcome.rows.values()):,} rows, {len(outcome.losses):,} steps of {settings.batch_size},\
 {_duration(outcome.seconds)}; mean loss of the last {len(last)} steps {sum(last) / len(last):.3f}.\
{_unread(outcome.unread)}{_start(settings.start)}

| source | rows |
|---|---|
{sources}"""


def _held_out(settings: GuardTraining) -> str:
    """Where the rows that measure the guard come from."""
    if settings.development:
        return """The rows for development were not trained on, but they set the calibration and the
thresholds: on other data the guard will do less well."""
    return f"""{100 * settings.held_out:.0f} % of the requests, chosen by their hash, were not \
trained on. They are
of the same sources as the training rows: on other data the guard will do less well."""


def _line(kind: str, figures: Detection) -> str:
    counts = figures.counts
    unsafe = counts.recall.scored
    score = "no data" if counts.f1 is None else f"{counts.f1:.3f}"
    area, error = (
        "no data" if value is None else f"{value:.3f}"
        for value in (figures.auprc, figures.calibration_error)
    )
    return (
        f"| {kind} | {unsafe + counts.false_positive_rate.scored:,} | {unsafe:,} | {score}"
        f" | {counts.recall} | {counts.false_positive_rate} | {area} | {error} |\n"
    )


def _uncalibrated_kinds(outcome: GuardTrainingOutcome) -> str:
    """Which kinds of row are judged without a calibration of their own."""
    config = outcome.guard.config
    curves = {"prompt": config.prompt, "pair": config.pair}
    kinds = " and ".join(kind for kind, (slope, _) in curves.items() if slope == 1.0)
    return f"\nNot calibrated, since too few such rows were held out: {kinds}.\n" if kinds else ""


def _unread(count: int) -> str:
    if not count:
        return ""
    return f" Rows left out, since the tokenizer knows nothing in them: {count:,}."


def _start(folder: str) -> str:
    if not folder:
        return ""
    return f" Training started from the guard in `{folder}`, whose own rows are not counted here."


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _cell(text: str) -> str:
    """A name that cannot break a table."""
    return " ".join(text.replace("|", "/").split())
