"""A training step with eager attention against torch's fused kernel (`sdpa`), by sequence length.

Decides `SHORT` in `fedrai/model/loading.py`: up to there CPUs train with eager attention.
"""

from __future__ import annotations

import argparse

import torch

import common
from fedrai.records import Tokens
from fedrai.training.sft import SftSettings, train


def speed(lm, kernel: str, length: int, tokens: int, steps: int) -> float:
    lm.kernels = (kernel, "sdpa")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, 40_000, (max(1, tokens // length), length), generator=generator)
    half = [False] * (length // 2) + [True] * (length - length // 2)
    rows = [Tokens(tuple(row), tuple(half)) for row in ids.tolist()]
    _, result = train(
        lm, lm.fresh_adapter(0), rows, SftSettings(steps, len(rows), lambda _: 1e-4), seed=0
    )
    return result.tokens / result.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    lm = common.load_model()
    for length in args.lengths:
        for kernel in ("eager", "sdpa"):
            speed(lm, kernel, length, 1024, 1)
        pairs = [
            (speed(lm, "eager", length, 1024, 2), speed(lm, "sdpa", length, 1024, 2))
            for _ in range(args.pairs)
        ]
        common.report(
            f"length {length}, eager",
            [a for a, _ in pairs],
            "sdpa",
            [b for _, b in pairs],
            "tokens/s",
        )


if __name__ == "__main__":
    main()
