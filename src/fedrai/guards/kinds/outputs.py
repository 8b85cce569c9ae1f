"""What the outputs of a sequence classifier mean: which are unsafe, and how they add up.

Labels are told by their names only if every label of the model is a known one, so that an unknown
taxonomy is an error and not a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedrai.errors import GuardError

UNSAFE = frozenset({
    "abuse", "abusive", "attack", "harassment", "harm", "harmful", "hate", "hateful", "hatespeech",
    "identityattack", "identityhate", "injection", "insult", "jailbreak", "malicious", "nsfw",
    "obscene", "offensive", "profanity", "promptinjection", "selfharm", "severetoxic",
    "severetoxicity", "sexualexplicit", "threat", "toxic", "toxicity", "unsafe", "violence",
})  # fmt: skip
SAFE = frozenset({
    "acceptable", "benign", "clean", "harmless", "legit", "neutral", "nohate", "nonabusive",
    "nonhate", "nonoffensive", "nontoxic", "normal", "nothate", "nothateful", "notoffensive",
    "nottoxic", "ok", "safe", "sfw",
})  # fmt: skip

NAMELESS = re.compile(r"LABEL_\d+")


@dataclass(frozen=True, slots=True)
class ClassifierLabels:
    """What a classifier's outputs mean.

    Attributes:
        names: names of the outputs, in order.
        unsafe: which of them mean unsafe.
        multi: whether each output is a probability of its own (sigmoid) and the highest counts;
            else they share one (softmax) and the unsafe ones add up.
    """

    names: tuple[str, ...]
    unsafe: tuple[int, ...]
    multi: bool

    def chances(self, logits: Tensor) -> Tensor:
        """Probabilities (B, labels) from logits (B, labels), in float32."""
        return logits.float().sigmoid() if self.multi else logits.float().softmax(-1)

    def probability(self, chances: Sequence[float]) -> float:
        """Of unsafe, from the probabilities of one text."""
        unsafe = [chances[i] for i in self.unsafe]
        return min(1.0, max(unsafe) if self.multi else math.fsum(unsafe))

    def worse(self, one: Sequence[float] | None, other: Sequence[float]) -> Sequence[float]:
        """What two windows of a text say together: output by output, or the unsafer window."""
        if one is None:
            return other
        if self.multi:
            return [max(pair) for pair in zip(one, other, strict=True)]
        return max(one, other, key=self.probability)

    def categories(self, chances: Sequence[float]) -> tuple[str, ...]:
        """Unsafe labels above 0.5, or the likeliest of an unsafe text; no made-up names."""
        order = sorted(self.unsafe, key=lambda i: -chances[i])
        if not self.multi:
            order = order[:1] if self.probability(chances) > 0.5 else []
        likely = [i for i in order if chances[i] > 0.5 or not self.multi]
        return tuple(self.names[i] for i in likely if not NAMELESS.fullmatch(self.names[i]))


def classifier_labels(
    config: Any, unsafe: Sequence[str] | None = None, *, multi: bool | None = None
) -> ClassifierLabels:
    """What the outputs of a model with this configuration mean.

    Args:
        config: the model's `transformers` config, with `id2label` and perhaps `problem_type`.
        unsafe: labels that mean unsafe; None to tell them by their names. Of two nameless ones
            ("LABEL_0", "LABEL_1") the second is taken for unsafe.
        multi: whether each output is a probability of its own; None to go by the configuration.

    Raises:
        GuardError: a label is not there, or it is not known which mean unsafe.
    """
    labels = tuple(str(config.id2label[i]) for i in range(len(config.id2label)))
    kind = getattr(config, "problem_type", None)
    if kind == "regression":
        raise GuardError("the classifier returns a number, not a probability (regression)")
    several = len(labels) == 1 or (kind == "multi_label_classification" if multi is None else multi)
    chosen = _recognise(labels) if unsafe is None else _places(labels, unsafe)
    if not chosen or (not several and len(chosen) == len(labels)):
        raise GuardError(
            f"it is not known which of the classifier's labels mean unsafe: {', '.join(labels)}",
            hint="name them in unsafe_labels; at least one label must mean safe, unless each has "
            "a probability of its own",
        )
    return ClassifierLabels(labels, chosen, several)


def _recognise(labels: Sequence[str]) -> tuple[int, ...]:
    """The unsafe labels if the meaning of every label is known, else none."""
    if list(labels) == ["LABEL_0", "LABEL_1"]:
        return (1,)
    plain = [re.sub(r"[^a-z0-9]", "", label.lower()) for label in labels]
    known = all(label in UNSAFE or label in SAFE for label in plain)
    return tuple(i for i, label in enumerate(plain) if known and label in UNSAFE)


def _places(labels: Sequence[str], unsafe: Sequence[str]) -> tuple[int, ...]:
    places = {label.lower(): i for i, label in enumerate(labels)}
    missing = [label for label in unsafe if label.lower() not in places]
    if missing or isinstance(unsafe, str):
        raise GuardError(
            f"the classifier has no label {', '.join(map(repr, missing))}",
            hint=f"its labels: {', '.join(labels)}",
        )
    return tuple(sorted({places[label.lower()] for label in unsafe}))
