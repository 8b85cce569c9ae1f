"""Inputs of an alignment and its reports.

`AlignStep` and `AlignResult` hold numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedrai.errors import DataError
from fedrai.model import AdapterState
from fedrai.model.parts import ALL, Part
from fedrai.recipe.alignment import Objective
from fedrai.records import PreferencePair, Tokens
from fedrai.training.sft import GROUP, label_count

NO_LABEL_HINT = "leave it out; a prompt as long as max_length leaves no room for the answer"


@dataclass(frozen=True, slots=True)
class AlignSettings:
    """How an alignment trains.

    Attributes:
        objective: the weights of the three losses.
        steps: optimiser steps.
        rows_per_step: rows of a step.
        pairs_per_step: pairs of a step.
        learning_rate: learning rate by step, from 0.
        seed: decides the order of rows and pairs.
        clip_norm: largest norm of the gradient.
        weight_decay: decoupled, as in AdamW.
        micro_batch_tokens: tokens, with padding, that go through the model at once; a row or pair
            that has more goes alone. 0: the rows of a step together, then its pairs.
        group: steps whose rows are sorted by length together; 1: random steps, which mix kinds of
            rows evenly, where length tells the kind.
        micro_batch_pairs: pairs that go through the model at once; 0: no limit but that of tokens.
        first_step: the step of `learning_rate` at which this training begins.
        proximal_mu: as in `SftSettings`, but for `anchor` in the place of w_start.
        anchor: the adapter that `proximal_mu` pulls to; None: the one that training starts from.
        correction: as in `SftSettings`.
        part: what of the adapter is trained.
    """

    objective: Objective
    steps: int
    rows_per_step: int
    pairs_per_step: int
    learning_rate: Callable[[int], float]
    seed: int
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    micro_batch_tokens: int = 0
    group: int = GROUP
    micro_batch_pairs: int = 0
    first_step: int = 0
    proximal_mu: float = 0.0
    anchor: AdapterState | None = None
    correction: AdapterState | None = None
    part: Part = ALL


@dataclass(frozen=True, slots=True)
class AlignHooks:
    """Functions that an alignment calls, and the state it resumes from.

    Attributes:
        on_step: called after every step; may raise KeyboardInterrupt to stop.
        every: steps from one call of `on_state` and `stop` to the next; 0: no calls.
        stop: called with the number of steps done, the adapter being in the model; True ends the
            training. May use the model, with other adapters too. Called again after `resume`.
        on_state: receives tensors by name, to be stored for `resume` (in a safetensors file, say).
        resume: such tensors; all else must be as it was. The reference is read again and training
            continues to the same bits.
    """

    on_step: Callable[[AlignStep], None] = lambda _: None
    every: int = 0
    stop: Callable[[int], bool] = lambda _: False
    on_state: Callable[[dict[str, Tensor]], None] = lambda _: None
    resume: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class AlignStep:
    """Figures of one step of an alignment; None where the step had no rows or pairs for one.

    Attributes:
        step: number of the step, from 1.
        steps: steps of the whole alignment.
        loss: the weighted sum.
        sft: mean cross-entropy per label token of the rows, in nats.
        preference: mean loss of the pairs.
        kl: mean KL divergence per label token, in nats.
        margin: mean of beta times the log-ratio of policy to reference, chosen minus rejected, over
            whole answers (for `ipo` too).
        accuracy: share of pairs with a margin above 0. In the first step it means nothing: all
            margins are 0 but for rounding.
        tokens: tokens that went through the model, without padding.
        label_tokens: tokens that counted in a loss.
        operations: floating-point operations, counted from shapes.
        seconds: wall time.
    """

    step: int
    steps: int
    loss: float
    sft: float | None
    preference: float | None
    kl: float | None
    margin: float | None
    accuracy: float | None
    tokens: int
    label_tokens: int
    operations: float
    seconds: float


@dataclass(frozen=True, slots=True)
class AlignResult:
    """Figures of a whole alignment.

    Attributes:
        steps: figures of each step; fewer than in the settings if it was stopped.
        tokens: tokens that went through the model, including those of the reference.
        label_tokens: tokens that counted in a loss, or were read for one.
        operations: floating-point operations of training and of reading the reference.
        seconds: wall time of both, without the time in the caller's functions.
    """

    steps: Sequence[AlignStep]
    tokens: int
    label_tokens: int
    operations: float
    seconds: float


def check(rows: Sequence[Tokens], pairs: Sequence[PreferencePair]) -> None:
    """Check that all rows and pairs can be trained on.

    Raises:
        DataError: a row or an answer has no label token, the prompts of a pair differ, or its
            answers are the same.
    """
    for number, row in enumerate(rows, 1):
        if not label_count(row):
            raise DataError(f"row {number} of {len(rows)} has no label token", hint=NO_LABEL_HINT)
    for number, pair in enumerate(pairs, 1):
        if problem := pair_problem(pair):
            why = PAIR_PROBLEMS[problem]
            raise DataError(f"pair {number} of {len(pairs)}: {why}", hint=NO_LABEL_HINT)


PAIR_PROBLEMS = {
    "cut": "an answer has no label token",
    "prompt": "the prompts are not the same",
    "alike": "the answers are the same",
}


def pair_problem(pair: PreferencePair) -> str:
    """The problem of a pair, a key of `PAIR_PROBLEMS`; empty if there is none."""
    both = (pair.chosen, pair.rejected)
    if not all(label_count(row) for row in both):
        return "cut"
    if len({row.ids[: row.mask.index(True)] for row in both}) > 1:
        return "prompt"
    return "alike" if pair.chosen == pair.rejected else ""
