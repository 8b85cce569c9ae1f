"""The requests of an alignment, and an estimate of the tokens that they take.

Requests are loaded; repetitions and requests that an evaluation asks are excluded; the rest is
sampled with a seed. No model runs here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.assets import Progress
from fedrai.constitution.checking import estimated_tokens
from fedrai.constitution.document import Constitution
from fedrai.constitution.overlap import without_overlap
from fedrai.constitution.records import Request
from fedrai.constitution.requests import load_requests, sample
from fedrai.errors import DataError
from fedrai.recipe.alignment import Alignment, RevisionSettings

Suites = Mapping[str, Sequence[str]]
BRIEF = 24
"""Longest answer of mining, in tokens: whether it declines is seen in its first sentence."""


@dataclass(frozen=True, slots=True)
class RequestSets:
    """The requests of an alignment.

    Attributes:
        harmful: red-team requests.
        harmless: look-alikes and ordinary instructions.
        removed: how many requests of both were excluded because an evaluation asks nearly the
            same, by suite.
        duplicates: how many because another request asks nearly the same.
        held_out: requests of the probe, never trained on: harmful, harmless; none on a side that
            has fewer than three.
        candidates: with mining, all requests that are not held out: harmful, harmless. Each
            alignment draws its pool from them; none without mining.
    """

    harmful: tuple[Request, ...]
    harmless: tuple[Request, ...]
    removed: Mapping[str, int]
    duplicates: int
    held_out: tuple[tuple[Request, ...], tuple[Request, ...]] = ((), ())
    candidates: tuple[tuple[Request, ...], tuple[Request, ...]] = ((), ())

    def to_json(self) -> dict[str, Any]:
        """Counts as plain values; no text."""
        return {
            "requests": _category_counts(self.harmful),
            "harmless": _category_counts(self.harmless),
            "overlap_removed": dict(self.removed),
            "duplicates": self.duplicates,
            "held_out": [len(side) for side in self.held_out],
        }


def gather(
    section: Alignment, suites: Suites, seed: int, progress: Progress | None = None
) -> RequestSets:
    """Load requests, clean and sample them.

    Args:
        section: names the sources and says how many requests to take; a third of each side, at
            most, is held out for the probe.
        suites: requests of evaluations by name; similar requests are excluded.
        seed: for drawing the samples.
        progress: shows transfers.

    Raises:
        DataError: a file cannot be read, or no red-team request remains.
        AssetError: an asset cannot be fetched.
    """
    harmful, harmless = (
        without_overlap(load_requests(specs, harmful=is_harmful, progress=progress), suites)
        for specs, is_harmful in ((section.requests, True), (section.harmless, False))
    )
    if section.requests and not harmful.requests:
        raise DataError(
            f"no red-team request of {', '.join(section.requests)} remains",
            hint="evaluations ask nearly the same; set constitution.requests to other sources",
        )
    held_harmful, red_team = _split(harmful.requests, section.probe.harmful, 0, seed)
    held_harmless, others = _split(harmless.requests, section.probe.harmless, 0, seed)
    return RequestSets(
        tuple(sample(red_team, section.request_count, seed)),
        tuple(sample(others, section.harmless_count, seed)),
        {name: harmful.removed[name] + harmless.removed[name] for name in suites},
        harmful.duplicates + harmless.duplicates,
        (held_harmful, held_harmless),
        (red_team, others) if section.mined_from else ((), ()),
    )


def _split(
    requests: Sequence[Request], held: int, count: int, seed: int
) -> tuple[tuple[Request, ...], tuple[Request, ...]]:
    """Requests that are held out, and a sample of the others."""
    share = min(held, len(requests) // 3)
    held_out = sample(requests, share, seed) if share else []
    prompts = {request.prompt for request in held_out}
    rest = [request for request in requests if request.prompt not in prompts]
    return tuple(held_out), tuple(sample(rest, count, seed))


def _category_counts(requests: Iterable[Request]) -> dict[str, dict[str, int]]:
    """How many requests of each source have each category."""
    counts: dict[str, Counter[str]] = {}
    for request in requests:
        counts.setdefault(request.source, Counter())[request.category] += 1
    return {source: dict(sorted(counts[source].items())) for source in sorted(counts)}


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Tokens that go through models, estimated by rules of thumb.

    Attributes:
        generation: fewest tokens to generate, if each request needs one chain.
        generation_most: most tokens to generate, if each needs all its tries.
        training: tokens of all training steps.
        mining: tokens of the brief answers to the pools, without what the guard reads.
    """

    generation: int
    generation_most: int
    training: int
    mining: int = 0


def estimate(
    requests: RequestSets,
    constitution: Constitution,
    settings: RevisionSettings,
    drawn: int,
    mined: Sequence[Request] = (),
) -> TokenEstimate:
    """Estimate the tokens of answers, critiques, revisions and training.

    Args:
        requests: the requests.
        constitution: its requests and demonstrations determine the lengths.
        settings: settings of critique and revision.
        drawn: rows that steps read, a pair counting as two.
        mined: requests of the pools that are mined.
    """
    harmful = [estimated_tokens(request.prompt) for request in requests.harmful]
    harmless = [estimated_tokens(request.prompt) for request in requests.harmless]
    prompts, count = sum(harmful) + sum(harmless), len(harmful) + len(harmless)
    answers = prompts + settings.max_new_tokens * count
    chain = _chain(constitution, settings)
    each = len(harmful) * chain + 2 * settings.revisions * sum(harmful)
    length = prompts / max(1, count) + settings.max_new_tokens
    return TokenEstimate(
        answers + settings.principles * each,
        answers + settings.tries * each,
        round(drawn * length),
        sum(estimated_tokens(request.prompt) + BRIEF for request in mined),
    )


def _chain(constitution: Constitution, settings: RevisionSettings) -> int:
    """Tokens of one chain for a request without words: each of its turns is read with the lead."""
    turns = [sum(estimated_tokens(t.content) for t in d.turns) for d in constitution.demonstrations]
    lead = settings.demonstrations * sum(turns) // max(1, len(turns))
    rules = constitution.principles
    critique, revision = (
        sum(estimated_tokens(getattr(rule, what)) for rule in rules) // len(rules)
        for what in ("critique_request", "revision_request")
    )
    first = lead + settings.max_new_tokens + critique + settings.critique_tokens
    return settings.revisions * (2 * first + revision + settings.max_new_tokens)
