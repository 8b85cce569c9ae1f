"""Which requests an alignment works on, and about how many tokens that takes.

Requests are loaded, those that an evaluation asks and repetitions are left out, and a seeded sample
is taken of the rest. No model runs here.
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
from fedrai.constitution.revising import Settings
from fedrai.errors import DataError

Suites = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class RequestSets:
    """The requests of an alignment.

    Attributes:
        harmful: red-team requests.
        harmless: look-alikes and ordinary instructions.
        removed: how many requests of both were left out because an evaluation asks nearly the
            same, by suite.
        duplicates: how many because another request asks nearly the same.
        held: requests that the probe asks and that are never trained on: harmful, harmless; none
            on a side that has fewer than three.
    """

    harmful: tuple[Request, ...]
    harmless: tuple[Request, ...]
    removed: Mapping[str, int]
    duplicates: int
    held: tuple[tuple[Request, ...], tuple[Request, ...]] = ((), ())

    def to_json(self) -> dict[str, Any]:
        """Counts as plain values; no text."""
        return {
            "requests": _counted(self.harmful),
            "harmless": _counted(self.harmless),
            "overlap_removed": dict(self.removed),
            "duplicates": self.duplicates,
            "held_out": [len(side) for side in self.held],
        }


def gather(
    requests: Sequence[str],
    harmless: Sequence[str],
    *,
    request_count: int,
    harmless_count: int,
    suites: Suites,
    seed: int,
    held: tuple[int, int] = (0, 0),
    progress: Progress | None = None,
) -> RequestSets:
    """Load requests, clean and sample them.

    Args:
        requests: specs of red-team requests, as `load_requests` takes them.
        harmless: specs of harmless requests.
        request_count: how many red-team requests; 0: all.
        harmless_count: how many harmless ones; 0: all.
        suites: requests of evaluations by name; nothing near them is trained on.
        seed: of the samples.
        held: harmful and harmless requests to hold back for the probe, a third of them at most.
        progress: shows transfers.

    Raises:
        DataError: a file cannot be read, or no red-team request is left.
        AssetError: an asset cannot be fetched.
    """
    sides = [
        without_overlap(load_requests(specs, harmful=harmful, progress=progress), suites)
        for specs, harmful in ((requests, True), (harmless, False))
    ]
    if requests and not sides[0].kept:
        raise DataError(
            f"no red-team request is left of {', '.join(requests)}",
            hint="evaluations ask nearly the same; constitution.requests names others",
        )
    counts = (request_count, harmless_count)
    parted = [
        _parted(side.kept, back, count, seed)
        for side, back, count in zip(sides, held, counts, strict=True)
    ]
    return RequestSets(
        parted[0][1],
        parted[1][1],
        {name: sum(side.removed.get(name, 0) for side in sides) for name in suites},
        sum(side.duplicates for side in sides),
        (parted[0][0], parted[1][0]),
    )


def _parted(
    kept: Sequence[Request], held: int, count: int, seed: int
) -> tuple[tuple[Request, ...], tuple[Request, ...]]:
    """Requests that are held back, and a sample of the others."""
    share = min(held, len(kept) // 3)
    back = sample(kept, share, seed) if share else []
    taken = {request.prompt for request in back}
    left = [request for request in kept if request.prompt not in taken]
    return tuple(back), tuple(sample(left, count, seed))


def _counted(requests: Iterable[Request]) -> dict[str, dict[str, int]]:
    """How many requests of each source have each category."""
    found: dict[str, Counter[str]] = {}
    for request in requests:
        found.setdefault(request.source, Counter())[request.category] += 1
    return {source: dict(sorted(found[source].items())) for source in sorted(found)}


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Tokens that go through models, by rules of thumb.

    Attributes:
        generation: at least, where each request needs one chain.
        generation_most: where each needs all its tries.
        training: of all steps.
    """

    generation: int
    generation_most: int
    training: int


def estimate(
    gathered: RequestSets, constitution: Constitution, settings: Settings, drawn: int
) -> TokenEstimate:
    """Estimate the tokens of answers, critiques, revisions and training.

    Args:
        gathered: the requests.
        constitution: for the lengths of its requests and demonstrations.
        settings: of critique and revision.
        drawn: rows that steps read, a pair counting as two.
    """
    asked = [estimated_tokens(request.prompt) for request in gathered.harmful]
    spoken = [estimated_tokens(request.prompt) for request in gathered.harmless]
    answers = sum(asked) + sum(spoken) + settings.max_new_tokens * (len(asked) + len(spoken))
    chain = _chain(constitution, settings)
    each = len(asked) * chain + 2 * settings.revisions * sum(asked)
    rows = len(asked) + len(spoken)
    length = (sum(asked) + sum(spoken)) / max(1, rows) + settings.max_new_tokens
    return TokenEstimate(
        answers + settings.principles * each,
        answers + settings.tries * each,
        round(drawn * length),
    )


def _chain(constitution: Constitution, settings: Settings) -> int:
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
