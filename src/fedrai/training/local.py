"""A client's training in a round: on its answers, and then on its preference pairs.

Without pairs it is `sft.train`. The pairs go through the loop of `prefer`, which alignments use,
with the sizes and limits of the client's other training. The adapter that the answers led to is
what the pairs start from; the reference is that of the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from fedrai.model import AdapterState, LanguageModel
from fedrai.records import (
    PreferencePair,
    PreferenceResult,
    Tokens,
    TrainingRow,
    TrainingStep,
    TrainResult,
)
from fedrai.training import sft
from fedrai.training.pair_settings import PairSettings
from fedrai.training.prefer import AlignHooks, AlignResult, AlignSettings, AlignStep, align
from fedrai.training.sft import SftSettings, label_count

OnStep = Callable[[TrainingStep], None]
NOTHING = TrainResult((), 0, 0, 0.0, 0.0)


def split(rows: Sequence[TrainingRow]) -> tuple[list[Tokens], list[PreferencePair]]:
    """The answers and the pairs among a client's rows, each in their order."""
    answers = [row for row in rows if isinstance(row, Tokens)]
    return answers, [row for row in rows if isinstance(row, PreferencePair)]


def labels_of(row: TrainingRow) -> int:
    """Label tokens of a row; those of both answers of a pair."""
    if isinstance(row, Tokens):
        return label_count(row)
    return label_count(row.chosen) + label_count(row.rejected)


def train(
    model: LanguageModel,
    start: AdapterState,
    rows: Sequence[TrainingRow],
    settings: SftSettings,
    *,
    seed: int,
    on_step: OnStep = lambda _: None,
) -> tuple[AdapterState, TrainResult]:
    """Train the adapter on a client's rows.

    Args:
        model: the shared base model; its adapter is the same afterwards.
        start: the global adapter that training starts from, float32.
        rows: the client's tokenized rows, answers and pairs.
        settings: steps, sizes and rates; `pairs` where there are any.
        seed: decides the order of rows and the dropout.
        on_step: called after every step; may raise KeyboardInterrupt to stop.

    Returns:
        The trained adapter (float32, CPU) and the figures of the training.

    Raises:
        ValueError: there are pairs, and no settings for them.
        DataError, ModelError: as raised by `align`.
    """
    answers, pairs = split(rows)
    if not pairs:
        return sft.train(model, start, answers, settings, seed=seed, on_step=on_step)
    if settings.pairs is None:
        raise ValueError("rows with pairs need settings for them")
    show = _counted(on_step, settings.steps + settings.pairs.steps)
    adapter, result = start, NOTHING
    if answers:
        adapter, result = sft.train(model, start, answers, settings, seed=seed, on_step=show)
    origin = settings.pairs.start if settings.pairs.from_start else start
    goal = replace(_align_settings(settings, settings.pairs, seed), anchor=start)
    hooks = AlignHooks(on_step=lambda step: show(_as_step(step)))
    trained, aligned = align(model, adapter, [], pairs, goal, hooks, lambda: model.using(origin))
    return trained, _together(result, aligned)


def _counted(on_step: OnStep, steps: int) -> OnStep:
    """A function that numbers the steps of both trainings from 1 to `steps`."""
    numbers = count(1)
    return lambda step: on_step(replace(step, step=next(numbers), steps=steps))


def _as_step(step: AlignStep) -> TrainingStep:
    return TrainingStep(step.step, step.steps, step.loss, step.tokens, step.seconds)


def _align_settings(settings: SftSettings, pairs: PairSettings, seed: int) -> AlignSettings:
    return AlignSettings(
        objective=pairs.objective,
        steps=pairs.steps,
        rows_per_step=0,
        pairs_per_step=settings.batch_size,
        learning_rate=pairs.learning_rate,
        seed=seed,
        clip_norm=settings.clip_norm,
        weight_decay=settings.weight_decay,
        group=sft.GROUP if settings.group_by_length else 1,
        micro_batch_pairs=settings.micro_batch_size,
        first_step=pairs.first_step,
        proximal_mu=settings.proximal_mu,
        correction=settings.correction,
        part=settings.part,
    )


def _together(result: TrainResult, aligned: AlignResult) -> TrainResult:
    """The figures of both trainings."""
    return TrainResult(
        result.losses,
        result.tokens + aligned.tokens,
        result.label_tokens + aligned.label_tokens,
        result.operations + aligned.operations,
        result.seconds + aligned.seconds,
        _preference(aligned.steps),
    )


def _preference(steps: Sequence[AlignStep]) -> PreferenceResult:
    later = steps[len(steps) // 2 :]
    margins = [step.margin or 0.0 for step in later]
    accuracies = [step.accuracy or 0.0 for step in later]
    return PreferenceResult(
        tuple(step.loss for step in steps),
        sum(margins) / len(margins),
        sum(accuracies) / len(accuracies),
    )
