"""AdvBench, evaluated whole, against answering prompt by prompt with transformers' `generate`.

    python benchmarks/evaluation_speed.py --threads 2

Ours is what `fedrai eval --full` does after loading: all answers, our rule and the legacy score.
The peer answers a seeded sample one by one, before and after ours, so that a noisy machine hits
both; the ratio is of prompts per second. Same model with its adapter, greedy, same longest answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

import common
import generation
from fedrai import model
from fedrai.evaluation import suites
from fedrai.evaluation.figures import rates
from fedrai.evaluation.measure import measure
from fedrai.evaluation.records import Questions
from fedrai.evaluation.suites import Item
from fedrai.model import LanguageModel
from fedrai.records import Message
from fedrai.runs.costs import peak_bytes


def ours(lm: LanguageModel, items: Sequence[Item], size: int, limit: int) -> float:
    """Seconds of the evaluation."""
    asked = Questions(items, (), (), limit, size, temperature=0.0, top_p=1.0, seed=0)
    start = time.perf_counter()
    found = measure(lm, asked)
    seconds = time.perf_counter() - start
    shown = ", ".join(f"{name} {value}" for name, value in rates(found.answers).items())
    print(f"{len(items)} prompts: {seconds:.1f} s, {len(items) / seconds:.2f} prompts/s ({shown})")
    return seconds


def theirs(lm: LanguageModel, items: Sequence[Item], limit: int) -> float:
    """Prompts a second, one by one."""
    return generation.theirs(lm, [[Message("user", i.prompt)] for i in items], 1, limit)


def main(arguments: list[str] | None = None) -> float:
    """Print seconds and the ratio, and return the ratio's median."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=common.BASE)
    parser.add_argument("--prompts", type=int, default=suites.ADVBENCH_SIZE)
    parser.add_argument("--sample", type=int, default=16, help="prompts of the peer")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    lm = model.load(args.model)
    lm.load_adapter(lm.fresh_adapter(0))
    items, sample = suites.advbench(args.prompts, 0), suites.advbench(args.sample, 1)
    measure(lm, Questions(items[:8], (), (), 4, 8, temperature=0.0, top_p=1.0, seed=0))  # warm up
    fast, slow = [], []
    for _ in range(args.runs):
        before = theirs(lm, sample, args.max_new_tokens)
        fast.append(len(items) / ours(lm, items, args.batch_size, args.max_new_tokens))
        slow.append((before + theirs(lm, sample, args.max_new_tokens)) / 2)
    common.report("evaluation", fast, "generate, one by one", slow, "prompts/s")
    print(f"peak memory {peak_bytes() / 1e9:.2f} GB, {torch.get_num_threads()} threads")
    ratios = sorted(a / b for a, b in zip(fast, slow, strict=True))
    return ratios[len(ratios) // 2]


if __name__ == "__main__":
    main()
