"""The replies of a round in the run folder: costs, pending updates and the round's record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedrai.assets import checksums
from fedrai.errors import ChecksumError, RunError
from fedrai.federation.aggregation.norms import limited, scaled
from fedrai.federation.aggregation.weights import capped
from fedrai.federation.metrics import DATA_TOKENS, ROWS, WEIGHT
from fedrai.federation.protocol import Reason, Update
from fedrai.model.adapters import AdapterState
from fedrai.runs import RunFolder
from fedrai.runs.costs import Cost
from fedrai.runs.files import json_text, write_text

PREFERENCE_KEYS = {
    "loss_first": "preference-loss-first",
    "loss_last": "preference-loss-last",
    "margin": "reward-margin",
    "accuracy": "reward-accuracy",
}
"""Figures of a round's preference tuning, and the clients' numbers that they are means of."""


def cost_of(reply: Update | Reason, *, down: int, up: int) -> Cost:
    """The cost of one client's part of a round, as far as it reports it.

    Args:
        reply: result of `protocol.read_reply`.
        down: bytes sent to the client, counted by the server.
        up: bytes that it sent.
    """
    if isinstance(reply, Reason):
        return Cost(bytes_down=down, bytes_up=up)
    numbers = reply.metrics
    return Cost(
        seconds=numbers.get("seconds", 0.0),
        tokens=int(numbers.get("tokens", 0)),
        operations=numbers.get("operations", 0.0),
        peak_bytes=int(numbers.get("peak-bytes", 0)),
        bytes_down=down,
        bytes_up=up,
    )


def save_pending(run: RunFolder, number: int, name: str, update: Update, cost: Cost) -> None:
    """Keep an update of the round in progress, with its cost."""
    note = {"metrics": json.dumps(dict(update.metrics)), "cost": json.dumps(cost.to_json())}
    run.save_pending(number, name, update.adapter, note)


def pending(
    run: RunFolder, number: int, names: Sequence[str]
) -> Iterator[tuple[str, tuple[Update, Cost]]]:
    """Updates that an interrupted try of a round has kept, by client, with their cost.

    Raises:
        RunError, ChecksumError: one is damaged.
    """
    for name in names:
        if (run.pending(number) / f"{name}.safetensors").is_file():
            yield name, _load_pending(run, number, name)


def _load_pending(run: RunFolder, number: int, name: str) -> tuple[Update, Cost]:
    adapter, note = run.load_pending(number, name)
    try:
        cost = Cost.from_json(json.loads(note["cost"]))
        return Update(adapter, json.loads(note["metrics"])), cost
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run.pending(number)}: the update of {name} cannot be read ({type(error).__name__})"
        ) from error


def damaged_updates(run: RunFolder, number: int) -> list[Path]:
    """Pending updates of the round in progress that cannot be used."""
    return [file for file in sorted(run.pending(number).glob("*.safetensors"))
            if not _is_usable(run, number, file.stem)]  # fmt: skip


def _is_usable(run: RunFolder, number: int, name: str) -> bool:
    try:
        _load_pending(run, number, name)
    except (RunError, ChecksumError):
        return False
    return True


def weighted(updates: Mapping[str, Update], cap: float, by: str = ROWS) -> dict[str, Update]:
    """Updates with what they weigh in means, in place of the number of rows that they state.

    The stated number stays as `ROWS`.

    Args:
        updates: usable updates by client.
        cap: the recipe's `federation.weight_cap`; 0: no cap.
        by: the recipe's `federation.weights`.
    """
    weights = capped({name: stated(u.metrics, by) for name, u in updates.items()}, cap)
    return {
        name: replace(
            update,
            metrics={**update.metrics, ROWS: update.metrics[WEIGHT], WEIGHT: weights[name]},
        )
        for name, update in updates.items()
    }


def stated(metrics: Mapping[str, float], by: str) -> float:
    """What a client weighs by its own numbers, for a value of `federation.weights`."""
    return {"rows": metrics[WEIGHT], "uniform": 1.0}.get(by) or metrics[DATA_TOKENS]


def multiplied(updates: Mapping[str, Update], factors: Mapping[str, float]) -> dict[str, Update]:
    """Updates with the weights of some clients multiplied by their factors."""
    return {
        name: replace(u, metrics={**u.metrics, WEIGHT: u.metrics[WEIGHT] * factors[name]})
        if name in factors
        else u
        for name, u in updates.items()
    }


def capped_weights(
    updates: Mapping[str, Update], weighted: Mapping[str, Update], by: str = ROWS
) -> dict[str, dict[str, float]]:
    """By client whose weight is capped: the `rows` or `tokens` that it states, and the `counted`.

    Args:
        updates: usable updates by client.
        weighted: the same, as returned by `weighted`.
        by: the recipe's `federation.weights`.
    """
    weights = {
        name: {by: stated(updates[name].metrics, by), "counted": weighted[name].metrics[WEIGHT]}
        for name in sorted(weighted)
    }
    return {name: one for name, one in weights.items() if one["counted"] != one[by]}


def capped_norms(norms: Mapping[str, float], cap: float) -> dict[str, dict[str, float]]:
    """By client whose update is too long: its `norm` as measured, and how much of it is `counted`.

    Args:
        norms: norm of each client's update, measured by the server.
        cap: the recipe's `federation.norm_cap`; 0: no cap.
    """
    lengths = limited(norms, cap)
    return {
        name: {"norm": norm, "counted": lengths[name]}
        for name, norm in sorted(norms.items())
        if lengths[name] != norm
    }


def shortened(
    updates: Mapping[str, Update],
    capped: Mapping[str, Mapping[str, float]],
    start: Callable[[str], AdapterState],
) -> dict[str, Update]:
    """Updates scaled down to the norm that is counted; the others are the same objects.

    Args:
        updates: by client.
        capped: result of `capped_norms`.
        start: the adapter that a client started from.
    """
    factors = {name: one["counted"] / one["norm"] for name, one in capped.items()}
    return {
        name: replace(update, adapter=scaled(start(name), update.adapter, factors[name]))
        if name in factors
        else update
        for name, update in updates.items()
    }


def clients_record(
    updates: Mapping[str, Update],
    weighted: Mapping[str, Update],
    aside: Mapping[str, Reason],
    norms: Mapping[str, float],
    cap: float,
    by: str = ROWS,
) -> dict[str, Any]:
    """The clients' part of `round.json`.

    Args:
        updates: usable updates by client, with the numbers that they report.
        weighted: the same, as returned by `weighted`.
        aside: the other clients, with the reason.
        norms: norm of each client's change of the adapter, measured by the server.
        cap: the recipe's `federation.weight_cap`; 0: not applied.
        by: the recipe's `federation.weights`.
    """
    return {
        "clients": {name: dict(updates[name].metrics) for name in sorted(updates)},
        "update_norms": dict(sorted(norms.items())),
        "weight_cap": cap,
        "capped": capped_weights(updates, weighted, by),
        "set_aside": {name: aside[name].value for name in sorted(aside)},
        **round_figures(weighted, aside),
    }


def round_figures(updates: Mapping[str, Update], aside: Mapping[str, Reason]) -> dict[str, Any]:
    """The number of usable updates, and their weighted mean losses, in nats per token.

    Where clients have preference pairs, also the means of `preference_figures`.
    """
    first, last = (_mean(updates.values(), key) for key in ("loss-first", "loss-last"))
    figures = {"usable": len(updates), "aside": len(aside), "loss_first": first, "loss_last": last}
    return figures | preference_figures(updates)


def preference_figures(updates: Mapping[str, Update]) -> dict[str, Any]:
    """The weighted means of the clients' preference tuning, as `preference`; empty without it."""
    means = {name: _mean(updates.values(), key) for name, key in PREFERENCE_KEYS.items()}
    return {"preference": means} if any(value is not None for value in means.values()) else {}


def _mean(updates: Iterable[Update], key: str) -> float | None:
    """The weighted mean of a metric over the clients that send it; None if none does."""
    sent = [u.metrics for u in updates if key in u.metrics]
    weight = sum(m[WEIGHT] for m in sent)
    return sum(m[key] * m[WEIGHT] for m in sent) / weight if weight else None


def event_fields(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics under the names that events use."""
    return {key.replace("-", "_"): value for key, value in metrics.items()}


def copy_evaluation(source: RunFolder, run: RunFolder, number: int) -> None:
    """Copy an evaluation of the same model with the same questions, without its costs."""
    place = source.evaluation_folder(number)
    is_missing = number in source.evaluations() and number not in run.evaluations()
    if not is_missing or checksums.changed(place):  # a damaged one is not copied
        return
    body = source.read_json(f"{place.relative_to(source.path).as_posix()}/metrics.json")

    def write(folder: Path) -> None:
        for file in sorted(place.glob("*.jsonl")):
            shutil.copyfile(file, folder / file.name)
        write_text(folder / "metrics.json", json_text({**body, "costs": {}}))

    run.write_folder(run.evaluation_folder(number), write)
    run.event("evaluation-shared", round=number, source=source.path.name)
