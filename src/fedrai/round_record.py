"""What the replies of a round leave: their costs, kept updates, and the round's record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import protocol
from fedrai.costs import Cost
from fedrai.errors import ChecksumError, RunError
from fedrai.protocol import Reason, Update
from fedrai.runs import RunFolder


def cost_of(reply: Update | Reason, *, down: int, up: int) -> Cost:
    """What one client's part of a round took, as far as it tells.

    Args:
        reply: what `protocol.read_reply` made of its reply.
        down: bytes that it was sent, as the server counts them.
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


def keep(run: RunFolder, number: int, name: str, update: Update, cost: Cost) -> None:
    """Keep an update of the round in progress, with what it cost."""
    note = {"metrics": json.dumps(dict(update.metrics)), "cost": json.dumps(cost.to_json())}
    run.save_pending(number, name, update.adapter, note)


def kept(run: RunFolder, number: int, names: Sequence[str]) -> dict[str, tuple[Update, Cost]]:
    """Updates that an interrupted try of a round has kept, by client.

    Raises:
        RunError, ChecksumError: one is damaged.
    """
    found = {}
    for name in names:
        if (run.pending(number) / f"{name}.safetensors").is_file():
            found[name] = _kept(run, number, name)
    return found


def _kept(run: RunFolder, number: int, name: str) -> tuple[Update, Cost]:
    adapter, note = run.load_pending(number, name)
    try:
        return Update(adapter, json.loads(note["metrics"])), Cost.from_json(
            json.loads(note["cost"])
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{run.pending(number)}: the update of {name} is not what a round keeps"
                       f" ({type(error).__name__})") from error  # fmt: skip


def damaged_updates(run: RunFolder, number: int) -> list[Path]:
    """Kept updates of the round in progress that cannot be used."""
    return [file for file in sorted(run.pending(number).glob("*.safetensors"))
            if not _is_usable(run, number, file.stem)]  # fmt: skip


def _is_usable(run: RunFolder, number: int, name: str) -> bool:
    try:
        _kept(run, number, name)
    except (RunError, ChecksumError):
        return False
    return True


def replied(updates: Mapping[str, Update], aside: Mapping[str, Reason]) -> dict[str, Any]:
    """The clients' part of `round.json`."""
    return {
        "clients": {name: dict(updates[name].metrics) for name in sorted(updates)},
        "set_aside": {name: aside[name].value for name in sorted(aside)},
        **round_figures(updates, aside),
    }


def round_figures(updates: Mapping[str, Update], aside: Mapping[str, Reason]) -> dict[str, Any]:
    """How many clients replied, and their mean losses by rows, in nats per token."""
    first, last = (_mean(updates.values(), key) for key in ("loss-first", "loss-last"))
    return {"usable": len(updates), "aside": len(aside), "loss_first": first, "loss_last": last}


def _mean(updates: Iterable[Update], key: str) -> float | None:
    """The weighted mean of a metric over the clients that send it; None if none does."""
    sent = [u.metrics for u in updates if key in u.metrics]
    weight = sum(m[protocol.WEIGHT] for m in sent)
    return sum(m[key] * m[protocol.WEIGHT] for m in sent) / weight if weight else None


def shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics under the names that events use."""
    return {key.replace("-", "_"): value for key, value in metrics.items()}
