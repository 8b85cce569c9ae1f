"""The loop of an alignment: gradients of three losses and steps of AdamW.

Without pairs and KL divergence it is `sft.train`, to the same bits if that has no dropout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from fedrai.errors import DataError, ModelError, RunError
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import PreferencePair, Tokens
from fedrai.runs.costs import release_memory, training_operations
from fedrai.training.losses import kl_to_reference, preference_loss
from fedrai.training.master_weights import MasterWeights
from fedrai.training.prefer.records import (
    AlignHooks,
    AlignResult,
    AlignSettings,
    AlignStep,
    check,
)
from fedrai.training.prefer.reference import (
    AlignmentData,
    Batch,
    Reference,
    read_log_probabilities,
    read_reference,
    sides,
    width,
    without_dropout,
)
from fedrai.training.sft import (
    add_proximal_gradient,
    batch_numbers,
    label_count,
    label_loss,
    label_states,
    token_counts,
)

HISTORY = "history"  # the part of a state that does not belong to the optimiser
Origin = Callable[[], AbstractContextManager[None]]


@dataclass(slots=True)
class _Sums:
    """Denominators of a step's terms, and sums of the terms over its micro-batches."""

    labels: int
    pairs: int
    anchored: int
    sft: float = 0.0
    preference: float = 0.0
    kl: float = 0.0
    margin: float = 0.0
    right: int = 0


def align(
    model: LanguageModel,
    start: AdapterState,
    rows: Sequence[Tokens],
    pairs: Sequence[PreferencePair],
    settings: AlignSettings,
    hooks: AlignHooks,
    origin: Origin = nullcontext,
) -> tuple[AdapterState, AlignResult]:
    """Train the adapter on rows and preference pairs together, for some steps of AdamW.

    Args:
        model: the shared base model; its adapter is the same afterwards.
        start: the adapter that training starts from; float32.
        rows: tokenized rows; may be empty if `rows_per_step` is 0.
        pairs: preference pairs; may be empty if `pairs_per_step` is 0.
        settings: losses, sizes and rates.
        hooks: functions to call, and the state to resume from.
        origin: puts the reference's adapter into the model, within a block; by default the
            reference is `start`.

    Returns:
        The trained adapter (float32, CPU) and the figures of the alignment.

    Raises:
        DataError: rows or pairs are missing, or rejected by `check`.
        ModelError: the loss is not finite, or the output layer does not allow a KL divergence.
        RunError: `hooks.resume` is not of this alignment.
    """
    _check_counts(rows, pairs, settings)
    data = AlignmentData(model, rows, pairs, settings)
    plan = _plan(data)
    part, mu = settings.part, settings.proximal_mu
    still = [name for name in model.parameters if not part.trains(name)]
    with model.using(start), model.frozen(still):
        master = MasterWeights(model, start, weight_decay=settings.weight_decay, part=part)
        anchor = master.in_order(settings.anchor or start) if mu else []
        correction = master.in_order(settings.correction)
        with origin():
            reference = read_reference(data, plan)
        steps = settings.steps
        done = [] if hooks.resume is None else _restore(master, hooks.resume, steps)
        while len(done) < steps:
            if hooks.every and done and len(done) % hooks.every == 0 and hooks.stop(len(done)):
                break
            since = time.perf_counter()
            master.copy_to_model()
            report = _gradients(data, reference, plan[len(done)], len(done) + 1)
            master.collect()
            if mu:
                add_proximal_gradient(master.copies, anchor, mu)
            rate = settings.learning_rate(settings.first_step + len(done))
            master.step(rate, settings.clip_norm, correction)
            done.append(replace(report, seconds=time.perf_counter() - since))
            hooks.on_step(done[-1])
            if hooks.every and len(done) % hooks.every == 0:
                hooks.on_state({**master.state(), HISTORY: _history(done)})
    release_memory()
    return master.adapter(), _result(done, reference)


def _check_counts(
    rows: Sequence[Tokens], pairs: Sequence[PreferencePair], settings: AlignSettings
) -> None:
    """Raise unless there are rows and pairs for the steps."""
    some, couples = settings.rows_per_step, settings.pairs_per_step
    if min(some, couples) < 0 or not some + couples:
        raise ValueError(f"a step needs rows or pairs, got {some} and {couples}")
    if (some and not rows) or (couples and not pairs):
        raise DataError(
            f"a step takes {some} rows and {couples} pairs, got {len(rows)} and {len(pairs)} in all"
        )
    check(rows if some else [], pairs if couples else [])


def _plan(data: AlignmentData) -> list[Batch]:
    """The rows and pairs of each step, by number."""
    settings = data.settings

    def draw(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
        if not size:
            return [[] for _ in range(settings.steps)]
        return list(batch_numbers(lengths, size, settings.steps, seed, settings.group))

    rows = draw([len(row.ids) for row in data.rows], settings.rows_per_step, settings.seed)
    pairs = draw([width(p) for p in data.pairs], settings.pairs_per_step, settings.seed + 1)
    return list(zip(rows, pairs, strict=True))


def _gradients(data: AlignmentData, reference: Reference, batch: Batch, number: int) -> AlignStep:
    """Backward through all terms of a step.

    Raises:
        ModelError: the loss is not finite.
    """
    rows = [data.rows[i] for i in batch[0]]
    answers = sides([data.pairs[i] for i in batch[1]])
    pairs, labels = len(batch[1]), sum(map(label_count, rows))
    sums = _Sums(labels, pairs, labels + sum(map(label_count, answers[:pairs])))
    with without_dropout(data.model):
        for part in data.row_parts(batch[0]):
            _rows_backward(data, reference, part, sums)
        for part in data.pair_parts(batch[1]):
            _pairs_backward(data, reference, part, sums)
    report = _report(data, sums, [*rows, *answers], number)
    if not math.isfinite(report.loss):
        raise ModelError(
            f"the loss of step {number} of {report.steps} is {report.loss}",
            hint="lower learning_rate",
        )
    return report


def _rows_backward(data: AlignmentData, reference: Reference, part: list[int], sums: _Sums) -> None:
    states, targets = label_states(data.model, [data.rows[i] for i in part])
    entropy = label_loss(data.model, states, targets)
    loss = data.objective.sft * (entropy / sums.labels)
    sums.sft += entropy.item()
    if data.objective.kl:
        kl = _kl(data.model, states, [reference.rows[i] for i in part])
        loss = loss + data.objective.kl * (kl / sums.anchored)
        sums.kl += kl.item()
    loss.backward()  # type: ignore[no-untyped-call]


def _pairs_backward(
    data: AlignmentData, reference: Reference, part: list[int], sums: _Sums
) -> None:
    goal, answers = data.objective, sides([data.pairs[i] for i in part])
    policy, states = read_log_probabilities(data.model, answers)
    origin = reference.answers[part].T.reshape(-1).to(policy.device)
    chosen, rejected = (goal.beta * (policy - origin)).detach().chunk(2)
    sums.margin += (chosen - rejected).sum().item()
    sums.right += int((chosen > rejected).sum())
    if goal.kind == "ipo":
        counts = policy.new_tensor([label_count(row) for row in answers])
        policy, origin = policy / counts, origin / counts
    losses = preference_loss(
        policy.chunk(2), origin.chunk(2), beta=goal.beta, kind=goal.kind, smoothing=goal.smoothing
    )
    loss = goal.preference * (losses.sum() / sums.pairs)
    sums.preference += losses.sum().item()
    if goal.kl:
        before = [reference.chosen[i] for i in part]
        kl = _kl(data.model, states[: sum(map(len, before))], before)
        loss = loss + goal.kl * (kl / sums.anchored)
        sums.kl += kl.item()
    loss.backward()  # type: ignore[no-untyped-call]


def _kl(model: LanguageModel, states: Tensor, before: Sequence[Tensor]) -> Tensor:
    """Summed KL divergence of states from those of the reference."""
    reference = torch.cat(list(before)).to(states.device)
    return kl_to_reference(states, reference, model.output_weight, model.softcap).sum()


def _report(data: AlignmentData, sums: _Sums, rows: Sequence[Tokens], number: int) -> AlignStep:
    """Means of the terms, and their cost; a KL divergence computes two outputs and learns one."""
    goal, pairs = data.objective, sums.pairs
    shape = data.model.shape()
    tokens, labels = token_counts(rows)
    anchored = sums.anchored if goal.kl else 0
    sft = sums.sft / sums.labels if sums.labels else None
    preference = sums.preference / pairs if pairs else None
    kl = sums.kl / anchored if anchored else None
    return AlignStep(
        step=number,
        steps=data.settings.steps,
        loss=goal.sft * (sft or 0) + goal.preference * (preference or 0) + goal.kl * (kl or 0),
        sft=sft,
        preference=preference,
        kl=kl,
        margin=sums.margin / pairs if pairs else None,
        accuracy=sums.right / pairs if pairs else None,
        tokens=tokens,
        label_tokens=labels,
        operations=training_operations(shape, tokens, labels, tokens / len(rows))
        + anchored * 6.0 * shape.output_weights,
        seconds=0.0,
    )


def _history(done: Sequence[AlignStep]) -> Tensor:
    """Figures of the steps, (steps, fields) in float64; NaN in place of None."""
    rows = [[math.nan if value is None else value for value in astuple(step)] for step in done]
    return torch.tensor(rows, dtype=torch.float64)


def _restore(master: MasterWeights, state: Mapping[str, Tensor], steps: int) -> list[AlignStep]:
    """Return to a state, and give the figures of its steps.

    Raises:
        RunError: it is the state of another alignment.
    """
    expected = {name: part.shape for name, part in master.state().items()}
    shapes = {name: part.shape for name, part in state.items() if name != HISTORY}
    if shapes != expected or HISTORY not in state:
        raise RunError("the state to resume from belongs to an alignment of another adapter")
    done = [_step(values) for values in state[HISTORY].tolist()]
    if len(done) > steps or any(step.steps != steps for step in done):
        raise RunError(f"the state to resume from is not of an alignment of {steps} steps")
    master.restore(state)
    return done


def _step(values: Sequence[float]) -> AlignStep:
    whole = {"step", "steps", "tokens", "label_tokens"}
    values_by_name: dict[str, Any] = {
        field.name: int(value) if field.name in whole else None if math.isnan(value) else value
        for field, value in zip(fields(AlignStep), values, strict=True)
    }
    return AlignStep(**values_by_name)


def _result(done: Sequence[AlignStep], reference: Reference) -> AlignResult:
    return AlignResult(
        steps=tuple(done),
        tokens=reference.tokens + sum(step.tokens for step in done),
        label_tokens=reference.label_tokens + sum(step.label_tokens for step in done),
        operations=reference.operations + sum(step.operations for step in done),
        seconds=reference.seconds + sum(step.seconds for step in done),
    )
