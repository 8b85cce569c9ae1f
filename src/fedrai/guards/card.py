"""The card of a trained guard: what it is, what it was trained on, how it did on held-out rows."""

from __future__ import annotations

from fedrai import __version__
from fedrai.evaluation.detection import Detection
from fedrai.guards.training import Trained
from fedrai.schema import GuardTraining


def card(settings: GuardTraining, done: Trained) -> str:
    """The card in Markdown; names, counts and figures only."""
    config = done.guard.config
    layers = f"first {config.layers} layers" if config.layers else "all layers"
    kinds = "".join(_line(kind, found) for kind, found in done.held_out.items())
    sources = "".join(f"| {name or '(none)'} | {n:,} |\n" for name, n in sorted(done.rows.items()))
    named = ", ".join(config.categories) or "none"
    cuts = ", ".join(f"{name} {value:.3f}" for name, value in done.guard.thresholds.items())
    return f"""# Guard {config.name}

A FedRAI guard: the {layers} of `{config.base}`, a LoRA adapter of rank {config.rank} and a linear
head. It gives a calibrated probability that a request, or an answer in the light of its request, is
unsafe. Revision `{done.guard.revision[:12]}`, made by `fedrai guard train` of FedRAI {__version__}.

Thresholds: {cuts}. Categories: {named}.

## Held-out rows

{settings.held_out:.0%} of the requests, chosen by their hash, were not trained on. They are of the
same sources as the training rows: on other data the guard will do less well.

| judged | rows | unsafe | F1 | recall | false alarms | AUPRC | calibration error |
|---|---|---|---|---|---|---|---|
{kinds}
## Trained on

{len(done.losses):,} steps of {settings.batch_size} rows, {done.seconds / 60:.0f} minutes, last loss
{sum(done.losses[-20:]) / max(1, len(done.losses[-20:])):.3f}.

| source | rows |
|---|---|
{sources}"""


def _line(kind: str, found: Detection) -> str:
    counts = found.counts
    unsafe = counts.recall.scored
    score = "no data" if counts.f1 is None else f"{counts.f1:.3f}"
    area, error = (
        "no data" if value is None else f"{value:.3f}"
        for value in (found.auprc, found.calibration_error)
    )
    return (
        f"| {kind} | {unsafe + counts.false_positive_rate.scored:,} | {unsafe:,} | {score}"
        f" | {counts.recall} | {counts.false_positive_rate} | {area} | {error} |\n"
    )
