"""Answers to AdvBench with our loop against transformers' `generate`, batched and one by one.

Same model with its adapter, same prompts, greedy, same number of new tokens at the most.
"""

from __future__ import annotations

import argparse
import time

import torch

import common
from fedrai.evaluation import suites
from fedrai.model.generate import generate
from fedrai.records import Message


def theirs(lm, prompts, size: int, limit: int) -> float:
    lm.tokenizer.padding_side = "left"
    start = time.perf_counter()
    with torch.inference_mode(), lm.mode(training=False):
        for first in range(0, len(prompts), size):
            ids = [lm.chat.prompt_ids(p) for p in prompts[first : first + size]]
            batch = lm.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
            lm.base.generate(**batch, max_new_tokens=limit, do_sample=False)
    return len(prompts) / (time.perf_counter() - start)


def ours(lm, prompts, size: int, limit: int) -> float:
    start = time.perf_counter()
    generate(lm, prompts, max_new_tokens=limit, batch_size=size)
    return len(prompts) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    args = parser.parse_args()
    lm = common.load_model()
    lm.load_adapter(lm.fresh_adapter(0))
    prompts = [[Message("user", item.prompt)] for item in suites.advbench(args.prompts, 0)]
    ours(lm, prompts[:32], 32, 8)
    limit, one = args.max_new_tokens, prompts[:8]
    pairs = [
        (ours(lm, prompts, 32, limit), theirs(lm, prompts, 32, limit)) for _ in range(args.pairs)
    ]
    common.report(
        "answers",
        [a for a, _ in pairs],
        "generate, batches of 32",
        [b for _, b in pairs],
        "prompts/s",
    )
    singles = [theirs(lm, one, 1, limit) for _ in range(args.pairs)]
    common.report("answers", [a for a, _ in pairs], "generate, one by one", singles, "prompts/s")


if __name__ == "__main__":
    main()
