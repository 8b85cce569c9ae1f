"""Requests with answers, labelled, for the embedded guard.

    python benchmarks/guard_pairs.py DATA TEACHER

DATA is the folder that `guard_data.py` wrote, with `answers.jsonl` by `guard_answers.py`; TEACHER
is a guard that judges requests. DATA gets `pairs.jsonl`:

- SmolLM2's own answers; as shipped it goes along with nearly every request. The refusal rule tells
  which of them decline. Answers that dwell on risks, help or the law are left out.
- Openings of answers, which agree or decline, and answers that agree at length, but hold nothing
  that could be used (`guard_answers.toml`): to harmful requests and, the same, to everyday ones.
- This package's refusals as answers to harmful requests of their category.
- hh-rlhf's red-team dialogues: what the teacher says of the request, the refusal rule of the answer
  and which of two answers people found less harmful together give a soft label.
- Harmful requests with an answer that belongs to another request: an answer that does not decline
  a harmful request counts as unsafe, whatever it says; and texts as answers.
- Answers that decline or help without harm, put together from sentences.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guard_requests
from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.evaluation.refusal import Reply, judge
from fedrai.guards import loading
from fedrai.records import Message

Row = dict[str, Any]
ASKED = (
    "Write a short post.", "Continue the story.", "Write a comment for a forum.",
    "Say something about it.", "Write what the character says.", "Give me your opinion.",
    "Write a message to my neighbour.", "Write a paragraph.",
)  # fmt: skip
TEXTS = ("rtp", "fedrai-content", "fedrai-mixed")
CONCERN = re.compile(
    r"important to (?:note|remember|seek|understand|respect|consider)|illegal|unethical|against the"
    r" law|seek (?:professional )?help|support|hotline|inappropriate|not (?:appropriate|acceptable)"
    r"|respectful|consent|safety|harmful|sorry|legal",
    re.IGNORECASE,
)
"""Words of answers that may be careful ones, though they do not decline."""
ANSWERED = ("dolly", "self-instruct", "fedrai-ordinary", "rasbt")
CAREFUL, CROSSED = 2600, 1800  # careful answers, and those of other requests
BUT = ("However,", "But here is how:", "That said, if you insist:", "Still, this is what works:")
CORRECTED = 2200
PLANS = 1500  # answers that agree at length, to harmful requests


def pair(source: str, request: Row, response: str, label: float) -> Row:
    named = request["category"] if label > 0.5 else ""
    return {"prompt": request["prompt"], "response": response, "unsafe": label,
            "category": named, "source": source}  # fmt: skip


def own_answers(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """SmolLM2's answers, and the first words of those that go along with a harmful request."""
    for entry in rows:
        text, harmful = entry["response"], entry["prompt_unsafe"] > 0.5
        reply = judge(text)
        if reply is Reply.REFUSAL or (reply is Reply.COMPLIANCE and not harmful):
            yield pair("smollm2-answers", entry, text, 0.05 if harmful else 0.02)
        elif reply is Reply.COMPLIANCE and not CONCERN.search(text):
            short = " ".join(text.split(" ")[: draw.randint(10, 50)])
            yield pair("smollm2-answers", entry, text, 0.92)
            yield pair("smollm2-answers", entry, short, 0.85)


def openings() -> Iterator[Row]:
    """Harmful requests with the opening of an answer that agrees or declines."""
    for entry in guard_requests.openings():
        yield pair("openings", entry, entry["response"], 0.92 if entry["unsafe"] else 0.02)


def clear(rows: list[Row], unsafe: bool, margin: float) -> list[Row]:
    """Short requests of one side whose label is further from 0.5 than the margin."""
    return [r for r in rows if abs(r.get("prompt_unsafe", 0.5) - 0.5) > margin
            and (r["prompt_unsafe"] > 0.5) is unsafe and r["source"] not in TEXTS
            and len(r["prompt"]) < 400]  # fmt: skip


def plans(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Requests of both kinds, answered at length with the same empty sentences."""
    for unsafe, count in ((True, PLANS), (False, PLANS // 2)):
        for entry in draw.sample(clear(rows, unsafe, 0.4), count):
            yield pair("plans", entry, guard_requests.empty_answer(draw), 0.93 if unsafe else 0.02)


def declined(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """The refusals of this package as answers."""
    refusals = embedded_refusals()
    pool = [r for r in rows if r.get("prompt_unsafe", 0) > 0.8 and r["source"] not in TEXTS]
    for number, entry in enumerate(draw.sample(pool, 900)):
        said = refusals.refusal_for(entry["prompt"], [entry["category"]] * bool(entry["category"]),
                                    number)  # fmt: skip
        yield pair("declined", entry, said, 0.02)


def careful(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Harmful requests, and a few others, with answers that decline or help without harm."""
    for unsafe, count in ((True, CAREFUL), (False, CAREFUL // 8)):
        for entry in draw.sample(clear(rows, unsafe, 0.3), count):
            yield pair("careful", entry, guard_requests.careful_answer(draw), 0.02)


def corrections(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Harmful requests with answers that correct them, and quote them or repeat what they ask."""
    pool = [r for r in rows if r.get("prompt_unsafe", 0) > 0.8 and r["source"] not in TEXTS
            and len(r["prompt"]) < 300]  # fmt: skip
    for entry in draw.sample(pool, CORRECTED):
        yield pair("corrections", entry, guard_requests.correction(entry["prompt"], draw), 0.02)


def taken_back(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Answers that decline first and agree then."""
    pool = [r for r in rows if r.get("prompt_unsafe", 0) > 0.9 and r["source"] not in TEXTS]
    for entry in draw.sample(pool, 300):
        first = guard_requests.careful_answer(draw).split(". ")[0]
        said = f"{first}. {draw.choice(BUT)} {guard_requests.empty_answer(draw)}"
        yield pair("taken-back", entry, said, 0.7)


def dialogues(rows: list[Row], teacher: str) -> Iterator[Row]:
    """The last exchange of hh-rlhf's dialogues, with soft labels."""
    found = [r for r in rows if "unsafe" in r and len(r["prompt"]) < 600]
    asked = sorted({r["prompt"] for r in found})
    said = loading.load(teacher).judge([(Message("user", text),) for text in asked]).verdicts
    harm = {text: v.probability or 0.0 for text, v in zip(asked, said, strict=True)}
    for entry in found:
        reply, worse = judge(entry["response"]), entry["unsafe"] > 0.5
        label = _soft(harm[entry["prompt"]], reply is Reply.REFUSAL, worse)
        if reply is Reply.REFUSAL:
            yield pair("hh-declined", entry, entry["response"], label)
        elif reply is Reply.COMPLIANCE:
            yield pair("hh-rlhf", entry, entry["response"], label)


def _soft(harm: float, declines: bool, worse: bool) -> float:
    """How unsafe an answer is taken for, from the request, a refusal and the preference."""
    if declines:
        return 0.03
    if harm < 0.2:
        return 0.08
    if harm > 0.7:
        return 0.88 if worse else 0.5
    return 0.5 if worse else 0.3


def texts(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Texts as answers."""
    for entry in rows:
        if entry["source"] == "fedrai-content" or (
            entry["source"] == "rtp" and draw.random() < 0.4
        ):
            yield pair("as-answer", entry | {"prompt": draw.choice(ASKED)}, entry["prompt"],
                       entry["prompt_unsafe"])  # fmt: skip


def crossed(rows: list[Row], draw: random.Random) -> Iterator[Row]:
    """Harmful requests with another request's answer: what does not decline counts as unsafe."""
    harmful = [r for r in rows if r.get("prompt_unsafe", 0) >= 0.9 and r["source"] not in TEXTS]
    answered = [r["response"] for r in rows if len(r.get("response", "")) > 60
                and r["source"] in ANSWERED]  # fmt: skip
    declined = [r["response"] for r in rows if r["source"] == "fedrai-safe-answers"]
    starts = [text for text in guard_requests.words("answers")["starts"] if text]
    for request in draw.sample(harmful, CROSSED):
        start = f"{draw.choice(starts)} " if draw.random() < 0.3 else ""
        yield pair("crossed", request, f"{start}{draw.choice(answered)[:500]}", 0.85)
    for request in draw.sample(harmful, 700):
        yield pair("crossed-declined", request, draw.choice(declined)[:500], 0.02)


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("teacher")
    args = parser.parse_args()
    rows = read(args.data / "rows.jsonl")
    draw = random.Random(0)
    made = [
        *own_answers(read(args.data / "answers.jsonl"), draw),
        *openings(),
        *plans(rows, draw),
        *declined(rows, draw),
        *careful(rows, draw),
        *taken_back(rows, draw),
        *corrections(rows, random.Random(1)),
        *dialogues(read(args.data / "dialogues.jsonl"), args.teacher),
        *texts(rows, draw),
        *crossed(rows, draw),
    ]
    with (args.data / "pairs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in made)
    print(f"pairs.jsonl: {len(made)} rows, {dict(Counter(r['source'] for r in made))}")


if __name__ == "__main__":
    main()
