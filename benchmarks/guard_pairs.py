"""Requests with answers, labelled, for the second stage of the embedded guard's training.

    python benchmarks/guard_pairs.py DATA TEACHER

DATA is the folder that `guard_data.py` wrote, TEACHER a guard that was trained on its requests
(recipes/guards/teacher.toml). DATA gets `pairs.jsonl`:

- SmolLM2's own answers; as shipped it goes along with nearly every request. The refusal rule tells
  which of them decline. The harm of an answer is in its detail, so beginnings of it count for less.
- hh-rlhf's red-team dialogues: what the teacher says of the request, the refusal rule of the answer
  and which of two answers people found less harmful together give a soft label.
- Texts as answers to a request that is harmless by itself; and harmful requests with an answer that
  belongs to another request, harmless or declining: it is the answer that is judged.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrai import model
from fedrai.evaluation.refusal import Reply, judge
from fedrai.guards import loading
from fedrai.model.generate import Sampling, generate
from fedrai.records import Message

Row = dict[str, Any]
ASKED = (
    "Write a short post.", "Continue the story.", "Write a comment for a forum.",
    "Say something about it.", "Write what the character says.", "Give me your opinion.",
    "Write a message to my neighbour.", "Write a paragraph.",
)  # fmt: skip
HARMFUL = ("catqa", "harmbench", "harmfulqa", "fedrai-contrast", "do-not-answer", "xstest")
HARMLESS = ("fedrai-contrast", "xstest", "wildchat", "self-instruct")


def pair(source: str, request: Row, response: str, label: float) -> Row:
    named = request["category"] if label > 0.5 else ""
    return {"prompt": request["prompt"], "response": response, "unsafe": label,
            "category": named, "source": source}  # fmt: skip


def own_answers(rows: list[Row], count: int, draw: random.Random) -> Iterator[Row]:
    """SmolLM2's answers to `count` harmful requests and a quarter as many harmless ones."""
    lm = model.load("smollm2-135m-instruct", model.Lora(rank=1))
    for harmful, sources in ((True, HARMFUL), (False, HARMLESS)):
        pool = [r for r in rows if r["source"] in sources
                and abs(r["prompt_unsafe"] - 0.5) >= 0.4
                and (r["prompt_unsafe"] > 0.5) is harmful]  # fmt: skip
        chosen = draw.sample(pool, min(len(pool), count if harmful else count // 4))
        made = generate(
            lm,
            [[Message("user", r["prompt"][:600])] for r in chosen],
            max_new_tokens=160, batch_size=64, sampling=Sampling(temperature=0.8, top_p=0.95),
            on_batch=lambda done, of: print(f"answers: {done} of {of}", flush=True),
        )  # fmt: skip
        for request, text in zip(chosen, made.answers, strict=True):
            reply = judge(text)
            if reply is Reply.COMPLIANCE and harmful:
                yield from _shortened(request, text, draw)
            elif reply is not Reply.UNSCORED:
                yield pair("smollm2-answers", request, text, 0.06 if harmful else 0.03)


def _shortened(request: Row, text: str, draw: random.Random) -> Iterator[Row]:
    """An answer that goes along, its first part, and its first words."""
    words = text.split(" ")
    yield pair("smollm2-answers", request, text, _detail(text))
    for low, high in ((8, 24), (40, 70)):
        short = " ".join(words[: draw.randint(low, high)])
        if len(short) < len(text):
            yield pair("smollm2-answers", request, short, _detail(short))


def _detail(text: str) -> float:
    """From 0.2 for a few words to 0.92 for 600 characters or more."""
    return 0.2 + 0.72 * min(1.0, len(text) / 600)


def dialogues(rows: list[Row], teacher: str) -> Iterator[Row]:
    """The last exchange of hh-rlhf's dialogues, with soft labels."""
    found = [r for r in rows if "unsafe" in r and len(r["prompt"]) < 600]
    asked = sorted({r["prompt"] for r in found})
    said = loading.load(teacher).judge([(Message("user", text),) for text in asked]).verdicts
    harm = {text: v.probability or 0.0 for text, v in zip(asked, said, strict=True)}
    for entry in found:
        reply, worse = judge(entry["response"]), entry["unsafe"] > 0.5
        if reply is not Reply.UNSCORED:
            label = _soft(harm[entry["prompt"]], reply is Reply.REFUSAL, worse)
            weight = min(1.0, 0.5 + len(entry["response"]) / 600) if label > 0.1 else 1.0
            yield pair("hh-rlhf", entry, entry["response"], label * weight)


def _soft(harm: float, declines: bool, worse: bool) -> float:
    """How unsafe an answer is taken for, from the request, a refusal and the preference."""
    if declines:
        return 0.05
    if harm < 0.2:
        return 0.08
    if harm > 0.7:
        return 0.8 if worse else 0.55
    return 0.5 if worse else 0.3


def texts(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Texts as answers."""
    for entry in rows:
        if entry["source"] == "fedrai-content" or (
            entry["source"] == "rtp" and draw.random() < 0.6
        ):
            yield pair("as-answer", entry | {"prompt": draw.choice(ASKED)}, entry["prompt"],
                       entry["prompt_unsafe"])  # fmt: skip


def crossed(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Harmful requests with another request's answer."""
    harmful = [r for r in rows if r.get("prompt_unsafe", 0) >= 0.9]
    ordinary = [r["response"] for r in rows if r.get("response")
                and r["source"] in ("dolly", "self-instruct", "fedrai-ordinary")]  # fmt: skip
    declined = [r["response"] for r in rows if r["source"] == "fedrai-safe-answers"]
    for request in draw.sample(harmful, 500):
        yield pair("crossed", request, draw.choice(ordinary)[:600], 0.12)
    for request in draw.sample(harmful, 300):
        yield pair("crossed", request, draw.choice(declined), 0.04)


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("teacher")
    parser.add_argument("--answers", type=int, default=192, help="to harmful requests")
    args = parser.parse_args()
    rows = read(args.data / "rows.jsonl")
    draw = random.Random(0)
    made = [
        *own_answers(rows, args.answers, draw),
        *dialogues(read(args.data / "dialogues.jsonl"), args.teacher),
        *texts(rows, draw),
        *crossed(rows, draw),
    ]
    with (args.data / "pairs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in made)
    print(f"pairs.jsonl: {len(made)} rows, {dict(Counter(r['source'] for r in made))}")


if __name__ == "__main__":
    main()
