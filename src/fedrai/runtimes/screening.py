"""The safety filter in a run: every client's rows through one guard, before the first step.

Verdicts are kept in the cache by content and guard revision, so further rounds, resumed runs, arms
and seeds judge nothing again. A guard that cannot work stops the client unless the recipe says
otherwise; then that is said in the run.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fedrai import assets
from fedrai.costs import Cost, peak_bytes, release_memory, reset_peak
from fedrai.embedded.refusals import load_refusals
from fedrai.errors import AssetError, DependencyError, GuardError, ModelError
from fedrai.filter import FilterLedger, Policy, Screened, answers, noisy, screen, total
from fedrai.guards.base import Conversation, Guard, Judged, OnProgress, Part, full_name
from fedrai.guards.cache import VerdictCache
from fedrai.guards.calibrated import Calibrated
from fedrai.guards.calibrated import read as read_calibration
from fedrai.guards.loading import load
from fedrai.partition import Shards
from fedrai.records import Example, Verdict
from fedrai.schema import Filter, Recipe

LABELS = "labels"  # the perfect guard of experiments


@dataclass(frozen=True, slots=True)
class Screening:
    """What the filter did to all clients of this process.

    Attributes:
        ledgers: by client; they stay with the clients.
        counts: by client, what the server may hear.
        cost: of the whole filter.
        skipped: why there was no filter although the recipe asks for one; empty if there was.
    """

    ledgers: Mapping[str, FilterLedger] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Totals and cost; ledgers with their hashes are written client by client."""
        ledgers = list(self.ledgers.values())
        return {
            "total": total(ledgers).to_json() if ledgers else None,
            "cost": self.cost.to_json(),
            "skipped": self.skipped,
        }


class LabelGuard:
    """A guard that knows which rows their source declares harmful; for experiments.

    Args:
        examples: rows whose `harmful` is known.
        part: what the filter judges.
    """

    name = LABELS
    revision = "0" * 40

    def __init__(self, examples: Sequence[Example], part: Part) -> None:
        self.thresholds = {"strict": 0.5, "loose": 0.5}
        self._unsafe = {
            talk
            for example in examples
            if example.harmful
            for _, talk in answers(example.messages, part)
        }

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> Judged:
        """1 for a harmful source's conversations, 0 for all others."""
        on_progress(len(conversations), len(conversations))
        said = (float(talk in self._unsafe) for talk in conversations)
        return Judged(tuple(Verdict(p, full_name(self)) for p in said))


def screened(
    recipe: Recipe,
    shards: Shards,
    progress: assets.Progress | None = None,
    tell: Callable[[str, int, int], None] = lambda _client, _done, _of: None,
) -> tuple[Shards, Screening]:
    """The rows that go on to training, by client, and what the filter did.

    Args:
        recipe: the recipe; with `filter.mode = "off"` nothing is done.
        shards: rows by client.
        progress: shows downloads.
        tell: hears of progress (client, answers judged, of how many); may raise to stop.

    Raises:
        GuardError, ModelError, AssetError, DependencyError: the guard cannot work and the recipe
            says to stop.
    """
    settings = recipe.filter
    if settings.mode == "off":
        return shards, Screening()
    try:
        return _screened(recipe, shards, progress, tell)
    except (GuardError, ModelError, AssetError, DependencyError) as error:
        if settings.on_guard_failure == "stop":
            raise GuardError(
                f"the safety filter cannot work: {error.message}",
                hint=error.hint or 'filter.on_guard_failure = "continue" trains without it',
            ) from error
        return shards, Screening(skipped=type(error).__name__)


def _screened(
    recipe: Recipe,
    shards: Shards,
    progress: assets.Progress | None,
    tell: Callable[[str, int, int], None],
) -> tuple[Shards, Screening]:
    settings = recipe.filter
    reset_peak()
    guard = _guard(recipe, [row for rows in shards.values() for row in rows], progress)
    policy = policy_of(settings, guard)
    cache = VerdictCache(assets.cache_root() / "verdicts")
    refusals = load_refusals(Path(settings.refusals).expanduser()) if settings.refusals else None
    found: dict[str, Screened] = {}
    for name in sorted(shards):
        found[name] = screen(
            shards[name],
            guard,
            policy,
            salt=cache.salt,
            seed=recipe.seed_for("refusals", 0, name),
            cache=None if settings.guard == LABELS else cache,
            refusals=refusals,
            experiment=any(source.harmful for source in recipe.data.sources),
            on_progress=partial(tell, name),
        )
    kept: Shards = {name: list(result.kept) for name, result in found.items()}
    ledgers = {name: result.ledger for name, result in found.items()}
    counts = {
        name: counts_to_send(ledger, settings.count_epsilon, cache.salt, name)
        for name, ledger in ledgers.items()
    }
    del guard
    release_memory()
    return kept, Screening(ledgers, counts, _cost(list(found.values())))


def _guard(recipe: Recipe, rows: Sequence[Example], progress: assets.Progress | None) -> Guard:
    settings = recipe.filter
    if settings.guard == LABELS:
        if not any(source.harmful for source in recipe.data.sources):
            raise GuardError(
                'filter.guard = "labels" needs sources with harmful = true',
                hint="it is for experiments; name a real guard",
            )
        return LabelGuard(rows, settings.judge)
    guard = load(settings.guard, tables=recipe.guards, device=recipe.model.device,
                 progress=progress)  # fmt: skip
    if not settings.calibration:
        return guard
    return Calibrated(guard, read_calibration(Path(settings.calibration).expanduser()))


def policy_of(settings: Filter, guard: Guard) -> Policy:
    """What the filter does, with the threshold as a number.

    Raises:
        GuardError: the guard has no threshold of that name.
    """
    if settings.mode == "off":
        raise ValueError("a filter that is off has no policy")
    wanted = settings.threshold
    if isinstance(wanted, str) and wanted not in guard.thresholds:
        raise GuardError(
            f"the guard {guard.name} has no threshold {wanted!r}",
            hint=f"it has: {', '.join(guard.thresholds)}; or set filter.threshold to a number",
        )
    number = guard.thresholds[wanted] if isinstance(wanted, str) else wanted
    return Policy(number, settings.mode, settings.judge, settings.unscored)


def counts_to_send(
    ledger: FilterLedger, epsilon: float, salt: bytes, client: str
) -> dict[str, int]:
    """What the server may hear of a ledger: counts, with noise if the recipe asks for it.

    The noise comes from the client's secret salt and the counts themselves, so the same counts are
    sent with the same noise every time: drawing anew would wear the privacy down.

    Args:
        ledger: the client's.
        epsilon: of differential privacy, for each count; 0: no noise.
        salt: the client's secret.
        client: its name.
    """
    counts = ledger.counts()
    if not epsilon:
        return counts
    told = json.dumps([client, epsilon, counts], sort_keys=True).encode()
    return noisy(counts, epsilon, random.Random(hmac.digest(salt, told, "sha256")))


def _cost(found: Sequence[Screened]) -> Cost:
    return Cost(
        seconds=sum(result.seconds for result in found),
        tokens=sum(result.tokens for result in found),
        operations=sum(result.operations for result in found),
        peak_bytes=peak_bytes(),
    )
