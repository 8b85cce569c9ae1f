"""Probabilities of labels from the log probabilities that an endpoint returns.

Both forms of OpenAI-style servers are read: that of chat completions, a list of places with their
likeliest tokens, and that of completions, where tokens and likeliest tokens are lists side by side.
Impossible values are refused: no numbers, or probabilities that add up to more than 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedrai.errors import GuardError

ROUNDING = 0.05  # a log probability may be this far above 0, and a sum of probabilities above 1

Place = tuple[str, Sequence[tuple[str, float]]]
"""A token of an answer, and the likeliest tokens there with their probabilities."""

LEAST_MASS = 0.05  # if labels hold less of the probability, the guard was not about to give one


class MissingLogprobsError(ValueError):
    """A reply has no log probabilities where they are needed."""


class LabelWords:
    """First tokens of a guard's labels.

    Tokens are compared without the white space around them, letter by letter; only if none of the
    labels is found so, whatever their case.

    Args:
        safe: those that mean safe.
        unsafe: those that mean unsafe.
        lead: what the guard says before its label.

    Raises:
        GuardError: one of the lists is empty, or a label stands in both.
    """

    def __init__(self, safe: Sequence[str], unsafe: Sequence[str], lead: str = "") -> None:
        self.safe, self.unsafe, self.lead = _words(safe), _words(unsafe), lead.strip()
        self._safe, self._unsafe = _folded(self.safe), _folded(self.unsafe)
        if not self.safe or not self.unsafe or self._safe & self._unsafe:
            raise GuardError("a remote guard needs labels for safe and other ones for unsafe")

    def probability(self, places: Sequence[Place]) -> float | None:
        """The unsafe labels' share of the mass of all labels, where the answer's label stands.

        Args:
            places: the answer's places, in order.

        Returns:
            0 to 1; None if the first token after the lead is not a label, that is if labels hold
            less than 5 % of the probability there.

        Raises:
            MissingLogprobsError: the reply has none at that place.
        """
        likeliest = self._at_label(places)
        if likeliest is None:
            return None
        if not likeliest:
            raise MissingLogprobsError
        tokens = [(token.strip(), p) for token, p in likeliest]
        exact = _share(tokens, self.safe, self.unsafe)
        if exact is not None:
            return exact
        return _share([(t.casefold(), p) for t, p in tokens], self._safe, self._unsafe)

    def _at_label(self, places: Sequence[Place]) -> Sequence[tuple[str, float]] | None:
        text = ""
        for token, likeliest in places:
            if text.strip() == self.lead and token.strip():
                return likeliest
            text += token
        return None


def read_places(logprobs: Any) -> list[Place]:
    """The places of an answer, from the `logprobs` of a reply's choice.

    Raises:
        MissingLogprobsError: there are none.
        ValueError, TypeError, KeyError, AttributeError: they have another form, or cannot be.
    """
    if not isinstance(logprobs, Mapping):
        raise MissingLogprobsError
    if "content" in logprobs:
        entries = logprobs["content"]
        if entries is None:
            raise MissingLogprobsError
        return [(_token(e["token"]), _listed(e.get("top_logprobs") or ())) for e in entries]
    if logprobs.get("top_logprobs") is None:
        raise MissingLogprobsError
    pairs = zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
    return [(_token(token), _chances((top or {}).items())) for token, top in pairs]


def _listed(top: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    return _chances((entry["token"], entry["logprob"]) for entry in top)


def _chances(top: Iterable[tuple[Any, Any]]) -> list[tuple[str, float]]:
    chances = [(_token(token), _chance(logprob)) for token, logprob in top]
    if math.fsum(p for _, p in chances) > 1 + ROUNDING:
        raise ValueError("the probabilities of one token add up to more than 1")
    return chances


def _chance(logprob: Any) -> float:
    """The probability of a log probability; minus infinity is 0."""
    if isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise ValueError("a log probability is not a number")
    if not logprob <= ROUNDING:  # nor NaN
        raise ValueError("a log probability is above 0")
    return math.exp(min(logprob, 0.0))


def _token(token: Any) -> str:
    if not isinstance(token, str):
        raise ValueError("a token is not a text")
    return token


def _share(
    likeliest: Sequence[tuple[str, float]], safe: frozenset[str], unsafe: frozenset[str]
) -> float | None:
    good = math.fsum(p for token, p in likeliest if token in safe)
    bad = math.fsum(p for token, p in likeliest if token in unsafe)
    return bad / (good + bad) if good + bad >= LEAST_MASS else None


def _words(labels: Sequence[str]) -> frozenset[str]:
    if isinstance(labels, str):
        raise GuardError("labels of a remote guard must be a list, got a text")
    return frozenset(word.strip() for word in labels if word.strip())


def _folded(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word.casefold() for word in words)


def no_logprobs() -> GuardError:
    """The error for an endpoint that returns none at all."""
    return GuardError(
        "the endpoint returns no log probabilities, so there is nothing to read a score from",
        hint="use a server that returns top_logprobs, such as vLLM's with --max-logprobs 20",
    )
