"""Rows a second of the embedded guard, in batches by length, against one row at a time."""

from __future__ import annotations

import argparse
import time

import common
from fedrai import data
from fedrai.guards import loading
from fedrai.guards.base import Conversation, part_of


def rate(guard, conversations: list[Conversation]) -> float:
    start = time.perf_counter()
    said = guard.judge(conversations).verdicts
    assert all(verdict.probability is not None for verdict in said)
    return len(conversations) / (time.perf_counter() - start)


def one_by_one(guard, conversations: list[Conversation]) -> float:
    start = time.perf_counter()
    for conversation in conversations:
        guard.judge([conversation])
    return len(conversations) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    guard = loading.load("embedded")
    examples = [
        e for name in ("ordinary", "safe-answers") for e in data.load(f"fedrai:{name}").examples
    ]
    for name, part in (("requests", "prompt"), ("requests with answers", "pair")):
        rows = [part_of(example.messages, part) for example in examples]
        guard.judge(rows[:64])
        ours = [rate(guard, rows) for _ in range(args.pairs)]
        plain = [one_by_one(guard, rows[:100]) for _ in range(args.pairs)]
        common.report(f"{name}, batched", ours, "one by one", plain, "rows/s")


if __name__ == "__main__":
    main()
