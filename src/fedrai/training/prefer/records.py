"""What goes into an alignment and what it reports.

`Pair` holds token ids of texts; `AlignStep` and `AlignResult` hold numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.errors import DataError
from fedrai.records import Tokens
from fedrai.training.losses import PreferenceKind, check_preference
from fedrai.training.sft import label_count

CUT = "leave it out; a prompt as long as max_length leaves nothing of the answer"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, each tokenized with it; the masks mark the answers.

    Attributes:
        chosen: the prompt and the answer that is preferred.
        rejected: the same prompt and the other answer.
    """

    chosen: Tokens
    rejected: Tokens


@dataclass(frozen=True, slots=True)
class Objective:
    """What is made small: the weighted sum of three means.

    Attributes:
        sft: weight of the cross-entropy per label token of the rows; 0 with `kl` above 0 makes the
            rows mere anchors.
        preference: weight of the loss per pair (`losses.preference_loss`).
        kl: weight of KL(reference || policy) per label token of rows and chosen answers
            (`losses.kl_to_reference`); at 0 its work is left out.
        beta: how dear it is to leave the reference, in the loss of pairs.
        kind: which loss pairs have; `ipo` reads log-probabilities per token, others per answer.
        smoothing: probability that a pair is the wrong way round.

    Raises:
        ValueError: a value is out of its range.
    """

    sft: float = 1.0
    preference: float = 1.0
    kl: float = 0.0
    beta: float = 0.1
    kind: PreferenceKind = "sigmoid"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_preference(self.beta, self.kind, self.smoothing)
        weights = (self.sft, self.preference, self.kl)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f"weights must be at least 0 and not all 0, got {weights}")


@dataclass(frozen=True, slots=True)
class AlignStep:
    """What one step of an alignment reports; None where the step had nothing of the kind.

    Attributes:
        step: from 1.
        steps: of the whole alignment.
        loss: the weighted sum.
        sft: mean cross-entropy per label token of the rows, in nats.
        preference: mean loss of the pairs.
        kl: mean KL divergence per label token, in nats.
        margin: mean of beta times the log-ratio of policy to reference, chosen less rejected, over
            whole answers (for `ipo` too).
        accuracy: share of pairs with a margin above 0. That of the first step tells nothing: its
            margins are 0 but for rounding.
        tokens: that went through the model, without padding.
        label_tokens: those that counted in a loss.
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
    """What a whole alignment reports.

    Attributes:
        steps: what each step reported; fewer than asked for if it was stopped.
        tokens: that went through the model, those that the reference read included.
        label_tokens: those of them that counted in a loss, or were read for one.
        operations: floating-point operations of training and of reading the reference.
        seconds: wall time of both; that of the caller's functions is not in it.
    """

    steps: Sequence[AlignStep]
    tokens: int
    label_tokens: int
    operations: float
    seconds: float


def check(rows: Sequence[Tokens], pairs: Sequence[Pair]) -> None:
    """Check that all of them can be learnt from.

    Raises:
        DataError: a row or an answer has no label token, a pair's prompts differ, or its answers
            do not.
    """
    for number, row in enumerate(rows, 1):
        if not label_count(row):
            raise DataError(f"row {number} of {len(rows)} has no label token", hint=CUT)
    for number, pair in enumerate(pairs, 1):
        if problem := _problem(pair):
            raise DataError(f"pair {number} of {len(pairs)}: {problem}", hint=CUT)


def _problem(pair: Pair) -> str:
    """What is wrong with a pair; empty if nothing is."""
    both = (pair.chosen, pair.rejected)
    if not all(label_count(row) for row in both):
        return "an answer has no label token"
    if len({row.ids[: row.mask.index(True)] for row in both}) > 1:
        return "the prompts are not the same"
    return "the answers are the same" if pair.chosen == pair.rejected else ""
