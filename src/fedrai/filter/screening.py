"""The safety filter in a run: every client's rows through one guard, before the first step.

Verdicts are cached by content and guard revision, so further rounds, resumed runs, arms and seeds
judge nothing again. A guard that cannot work stops the client, unless the recipe says to continue;
the run then records it. Mistakes in a recipe (a threshold that the guard does not have, a
calibration of another guard) always stop.
"""

from __future__ import annotations

import hmac
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedrai import assets
from fedrai.data.embedded.refusals import load_refusals
from fedrai.data.partition import Shards
from fedrai.errors import DataError, FedRAIError, GuardError, place_of
from fedrai.filter.ledger import FilterLedger, add_noise, total
from fedrai.filter.pairs import first_judged
from fedrai.filter.rows import FilterResult, Policy, SafetyFilter, answers
from fedrai.guards.base import Conversation, Guard, OnProgress, VerdictBatch, caution_of, full_name
from fedrai.guards.cache import VerdictCache
from fedrai.guards.calibrated import CalibratedGuard
from fedrai.guards.calibrated import read as read_calibration
from fedrai.guards.loading import load
from fedrai.recipe.sections import LABELS, Filter, Recipe
from fedrai.records import Example, Verdict
from fedrai.runs.costs import Cost, peak_bytes, release_memory, reset_peak


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """What the filter did to all clients of this process.

    Attributes:
        ledgers: the ledgers by client, which are not sent.
        counts: the counts to send to the server, by client.
        cost: cost of the whole filter, including loading the guard.
        skipped: why there was no filter although the recipe asks for one; empty if there was.
        note: a caution about the guard, and why verdicts are not kept for the next time; empty if
            all is well. Not for the record.
    """

    ledgers: Mapping[str, FilterLedger] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    skipped: str = ""
    note: str = ""

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

    It reads pairs, whatever the recipe says: two rows may share a request or an early exchange. A
    row that stands in a harmful and in a harmless source counts as harmful.

    Args:
        examples: rows whose `harmful` is known.
    """

    name = LABELS
    revision = "0" * 40

    def __init__(self, examples: Sequence[Example]) -> None:
        self.thresholds = {"strict": 0.5, "loose": 0.5}
        parts: dict[bool, set[Conversation]] = {False: set(), True: set()}
        for example in examples:
            first = first_judged(example)
            talks = answers(example.messages, "pair")
            parts[example.harmful] |= {talk for turn, talk in talks if turn >= first}
        whole = {example.messages for example in examples if example.harmful}
        self._unsafe = (parts[True] - parts[False]) | whole

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """1 for a harmful source's conversations, 0 for all others."""
        on_progress(len(conversations), len(conversations))
        chances = (float(talk in self._unsafe) for talk in conversations)
        return VerdictBatch(tuple(Verdict(p, full_name(self)) for p in chances))


OnClient = Callable[[str, int, int], None]
"""Called with (client, answers judged, of how many); may raise to stop."""


def screen_clients(
    recipe: Recipe,
    shards: Shards,
    progress: assets.Progress | None = None,
    on_client: OnClient = lambda _client, _done, _of: None,
) -> tuple[Shards, FilterOutcome]:
    """The rows to train on, by client, and what the filter did.

    Args:
        recipe: the recipe; with `filter.mode = "off"` nothing is done.
        shards: rows by client.
        progress: shows downloads.
        on_client: called with the progress.

    Raises:
        GuardError: the guard cannot work and the recipe says to stop; or the recipe's threshold or
            calibration does not fit it.
        DataError: the refusals cannot be used, or no client has a row left.
    """
    if recipe.filter.mode == "off":
        return shards, FilterOutcome()
    try:
        return _screen_clients(recipe, shards, progress, on_client)
    except _GuardFailedError as failure:
        if recipe.filter.on_guard_failure == "stop":
            raise GuardError(
                f"the safety filter cannot work: {failure.message}",
                hint=failure.hint or 'filter.on_guard_failure = "continue" trains without it',
            ) from failure
        return shards, FilterOutcome(skipped=failure.message)


class _GuardFailedError(GuardError):
    """The guard itself cannot work; nothing in the recipe is wrong."""


@contextmanager
def _guard_errors() -> Iterator[None]:
    """Turn any error of a guard into a failure that quotes no row."""
    try:
        yield
    except FedRAIError as error:
        raise _GuardFailedError(error.message, hint=error.hint) from error
    except Exception as error:  # its message may hold a row's text
        raise _GuardFailedError(f"the guard fails with {place_of(error)}") from None


def _screen_clients(
    recipe: Recipe, shards: Shards, progress: assets.Progress | None, on_client: OnClient
) -> tuple[Shards, FilterOutcome]:
    started = time.perf_counter()
    reset_peak()
    cache = VerdictCache(assets.cache_root() / "verdicts")
    results, caution = _results(recipe, shards, cache, progress, on_client)
    release_memory()
    ledgers = {name: result.ledger for name, result in results.items()}
    _check_rows_left(list(ledgers.values()))
    epsilon = recipe.filter.count_epsilon
    counts = {n: counts_to_send(x, epsilon, cache.salt, n) for n, x in ledgers.items()}
    cost = Cost(
        seconds=time.perf_counter() - started,
        tokens=sum(result.tokens for result in results.values()),
        operations=sum(result.operations for result in results.values()),
        peak_bytes=peak_bytes(),
    )
    kept: Shards = {name: list(result.kept) for name, result in results.items()}
    note = "; ".join(filter(None, (caution, cache.problem)))
    return kept, FilterOutcome(ledgers, counts, cost, note=note)


def _results(
    recipe: Recipe,
    shards: Shards,
    cache: VerdictCache,
    progress: assets.Progress | None,
    on_client: OnClient,
) -> tuple[dict[str, FilterResult], str]:
    """Screen each client's rows; return the results and a caution about the guard.

    The guard is no longer referenced when this returns, so that its memory can be released.
    """
    settings = recipe.filter
    refusals = load_refusals(Path(settings.refusals).expanduser()) if settings.refusals else None
    guard = _guard(recipe, [row for rows in shards.values() for row in rows], progress)
    experiment = any(source.harmful for source in recipe.data.sources)
    policy = replace(policy_of(settings, guard), refusals=refusals, experiment=experiment)
    verdicts = None if settings.guard == LABELS else cache
    safety_filter = SafetyFilter(guard, policy, salt=cache.salt, cache=verdicts)
    results: dict[str, FilterResult] = {}
    for name in sorted(shards):
        seed = recipe.seed_for("refusals", 0, name)
        with _guard_errors():
            results[name] = safety_filter.screen(shards[name], seed, partial(on_client, name))
    return results, caution_of(guard)


def _guard(recipe: Recipe, rows: Sequence[Example], progress: assets.Progress | None) -> Guard:
    settings = recipe.filter
    if settings.guard == LABELS:
        return LabelGuard(rows)
    file = settings.calibration
    calibration = read_calibration(Path(file).expanduser(), settings.judge) if file else None
    with _guard_errors():
        guard = load(settings.guard, tables=recipe.guards, device=recipe.model.device,
                     progress=progress)  # fmt: skip
    return CalibratedGuard(guard, calibration) if calibration else guard


def policy_of(settings: Filter, guard: Guard) -> Policy:
    """What the filter does, with the threshold as a number.

    Raises:
        GuardError: the guard has no threshold of that name, or none that is a probability.
    """
    if settings.mode == "off":
        raise ValueError("a filter that is off has no policy")
    threshold = settings.threshold
    if isinstance(threshold, str) and threshold not in guard.thresholds:
        raise GuardError(
            f"the guard {guard.name} has no threshold {threshold!r}",
            hint=f"it has: {', '.join(guard.thresholds)}; or set filter.threshold to a number",
        )
    number = guard.thresholds[threshold] if isinstance(threshold, str) else threshold
    if not 0 <= number <= 1:
        raise GuardError(
            f"the threshold {threshold!r} of {guard.name} is {number}, expected a probability",
            hint="set filter.threshold to a number from 0 to 1",
        )
    part = "pair" if settings.guard == LABELS else settings.judge
    return Policy(number, settings.mode, part, settings.unscored, settings.replaced,
                  pairs=settings.pairs)  # fmt: skip


def _check_rows_left(ledgers: Sequence[FilterLedger]) -> None:
    """Raise if there were rows before the filter and none are left to train on."""
    counts = total(ledgers)
    if counts.kept or not counts.rows:
        return
    raise DataError(
        f"the safety filter removed all {counts.rows} rows of all clients: {counts.unsafe} unsafe,"
        f" {sum(counts.unscored.values())} not scored",
        hint='filter.mode = "audit" only counts; `fedrai scan` shows how a guard judges a file',
    )


def counts_to_send(
    ledger: FilterLedger, epsilon: float, salt: bytes, client: str
) -> dict[str, int]:
    """The counts of a ledger that are sent to the server, with noise if the recipe asks for it.

    The noise comes from the client's secret salt and the counts themselves, so the same counts are
    sent with the same noise every time: each new draw would cost privacy.

    Args:
        ledger: the client's ledger.
        epsilon: epsilon of differential privacy for each count; 0: no noise.
        salt: the client's secret.
        client: the client's name.
    """
    counts = ledger.counts()
    if not epsilon:
        return counts
    message = json.dumps([client, epsilon, counts], sort_keys=True).encode()
    return add_noise(counts, epsilon, random.Random(hmac.digest(salt, message, "sha256")))


def filter_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a run's filter is not what it was when the run started; empty if it is.

    Args:
        before: `run.json`.
        now: what it would hold now.
    """
    skipped, is_skipped = (bool(info.get("filter_skipped")) for info in (before, now))
    if skipped == is_skipped:
        return ""
    return (
        f"it started {'without' if skipped else 'with'} its safety filter, and now the guard"
        f" {'cannot work' if is_skipped else 'works'}"
    )
