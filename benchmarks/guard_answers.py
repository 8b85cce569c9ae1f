"""SmolLM2's own answers to requests that the embedded guard is trained on.

    python benchmarks/guard_answers.py DATA

DATA is the folder that `guard_data.py` wrote; it gets `answers.jsonl`: `prompt`, `category`,
`prompt_unsafe`, `response`. As shipped, SmolLM2 goes along with nearly every request, so these are
answers such as a client's harmful rows hold. `guard_pairs.py` labels them. The file is written as
the answers come, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from fedrai import model
from fedrai.model.generate import Sampling, generate
from fedrai.records import Message

Row = dict[str, Any]
COUNTS = {
    "harmbench": 190, "catqa": 220, "ailuminate": 240, "fedrai-contrast": 160, "harmfulqa": 130,
    "do-not-answer": 100,
}  # fmt: skip
"""Harmful requests by source."""
HARMLESS = {"fedrai-contrast": 110, "wildchat": 60, "self-instruct": 60, "rasbt": 40}
BATCH = 64


def chosen(rows: list[Row], seed: int = 0) -> list[Row]:
    """The requests that are answered, mixed so that every batch holds all sources."""
    draw = random.Random(seed)
    found: list[Row] = []
    for counts, unsafe in ((COUNTS, True), (HARMLESS, False)):
        for source, count in counts.items():
            pool = [r for r in rows if r["source"] == source
                    and abs(r["prompt_unsafe"] - 0.5) > 0.3
                    and (r["prompt_unsafe"] > 0.5) is unsafe
                    and 10 < len(r["prompt"]) < 600]  # fmt: skip
            found += draw.sample(pool, min(count, len(pool)))
    draw.shuffle(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--tokens", type=int, default=112, help="of an answer, at most")
    args = parser.parse_args()
    with (args.data / "rows.jsonl").open(encoding="utf-8") as file:
        asked = chosen([json.loads(line) for line in file])
    out = args.data / "answers.jsonl"
    done = sum(1 for _ in out.open(encoding="utf-8")) if out.exists() else 0
    lm = model.load("smollm2-135m-instruct", model.Lora(rank=1))
    for start in range(done, len(asked), BATCH):
        part = asked[start : start + BATCH]
        made = generate(
            lm, [[Message("user", r["prompt"])] for r in part], max_new_tokens=args.tokens,
            batch_size=BATCH, sampling=Sampling(temperature=0.8, top_p=0.95, seed=start),
        )  # fmt: skip
        with out.open("a", encoding="utf-8") as file:
            for request, text in zip(part, made.answers, strict=True):
                kept = {k: request[k] for k in ("prompt", "category", "prompt_unsafe")}
                file.write(json.dumps(kept | {"response": text}, ensure_ascii=False) + "\n")
        print(f"answers: {min(start + BATCH, len(asked))} of {len(asked)}", flush=True)


if __name__ == "__main__":
    main()
