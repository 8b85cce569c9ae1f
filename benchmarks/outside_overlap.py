"""Find the requests of the outside sets that nearly equal one of a training or development set.

    python benchmarks/outside_overlap.py DATASETS            print `left_out` of each set
    python benchmarks/outside_overlap.py DATASETS --write    write it into split.toml

DATASETS is a folder with the public files named in docs/guards.md. Sets that are built of others'
requests need no list: they take the requests that remain. Similarity is that of `overlap.py`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import aligned_data
import guard_requests
from fedrai import assets
from fedrai.constitution.overlap import THRESHOLD, without_overlap
from fedrai.constitution.records import Request
from fedrai.data import embedded
from fedrai.evaluation import suites
from fedrai.evaluation.suites.outside import candidates
from fedrai.evaluation.suites.split import FILE, NamedSet, standing

GUARD_ROWS = ("guard_contrast.jsonl", "guard_content.jsonl")


def embedded_texts() -> Iterator[tuple[str, list[str]]]:
    """Requests that come with the package or that pip fetches, by set."""
    for name in embedded.DATASETS:
        yield f"fedrai:{name}", [str(row["prompt"]) for _, row in embedded.rows(name)]
    for name in GUARD_ROWS:
        lines = (embedded.HERE / name).read_text(encoding="utf-8").splitlines()
        rows = map(json.loads, lines)
        yield name, [str(row.get("prompt") or row.get("text")) for row in rows]
    for made in (guard_requests.everyday, guard_requests.dangers, guard_requests.groups):
        yield f"guard_requests.{made.__name__}", [row["prompt"] for row in made()]
    rows = aligned_data.Rows(0)
    yield "aligned_words, harmful", [row["prompt"] for row in aligned_data.written_harmful(rows)]
    yield "aligned_words, harmless", [text for _, text in aligned_data.written_harmless(rows)]
    for name in ("advbench", "harmbench", "do-not-answer"):
        suite = suites.load(name)
        if isinstance(suite, suites.NotAvailable):
            raise SystemExit(f"{name}: {suite.reason}")
        yield name, [item.prompt for item in suite.items]


def folder_texts(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Requests of the public files, by set; only what a request or an instruction is."""
    for name in ("catqa/catqa_english.json", "harmfulqa/harmfulqa.json"):
        groups = json.loads((folder / name).read_text(encoding="utf-8")).values()
        yield name, [text for group in groups for texts in group.values() for text in texts]
    for file, column in (
        (next((folder / "ailuminate").glob("*.csv")), "prompt_text"),
        (folder / "xstest/xstest_prompts.csv", "prompt"),
        (folder / "dolly/dolly_1000_subset.csv", "instruction"),
        (folder / "wildchat/wildchat_benign_subset.csv", "prompt"),
    ):
        with file.open(encoding="utf-8-sig", newline="") as opened:
            yield file.stem, [row[column] for row in csv.DictReader(opened)]
    for name in ("user_oriented_instructions", "seed_tasks"):
        lines = (folder / f"self_instruct/{name}.jsonl").read_text(encoding="utf-8").splitlines()
        yield name, [json.loads(line)["instruction"] for line in lines]
    rasbt = json.loads((folder / "rasbt_instruct/instruction-data.json").read_text())
    yield "rasbt", [f"{row['instruction']} {row['input']}" for row in rasbt]
    square = json.loads((folder / "square/response_test_ood.json").read_text(encoding="utf-8"))
    yield "square", [row["question_en"] for row in square]
    with gzip.open(folder / "hh_rlhf/harmless-base-test.jsonl.gz", "rt", encoding="utf-8") as file:
        turns = (json.loads(line)["chosen"].split("\n\n") for line in file)
        yield "hh-rlhf", [parts[1].removeprefix("Human: ") for parts in turns]


def near_items(prompts: Sequence[str], others: Mapping[str, Sequence[str]]) -> list[int]:
    """The numbers of the prompts that are near to one of another set."""
    requests = [Request(text, "other", "", "", True, "") for text in prompts]
    kept = without_overlap(requests, others, threshold=THRESHOLD, same=1.0).requests
    texts = {request.prompt for request in kept}
    return [number for number, text in enumerate(prompts) if text not in texts]


def written(text: str, one: NamedSet, numbers: Sequence[int]) -> str:
    """The split with the numbers of one set."""
    entry = re.compile(rf'(\[\[set\]\]\nname = "{re.escape(one.name)}"\n(?:(?!\[\[set\]\]).)*?)'
                       r"left_out = \[.*?\]\n", re.S)  # fmt: skip
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(f" {number},") > 100:
            lines, line = [*lines, line], "   "
        line += f" {number},"
    body = "\n".join([*lines, line]) if numbers else ""
    new = f"left_out = [\n{body}\n]\n" if numbers else "left_out = []\n"
    return entry.sub(lambda match: match[1] + new, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    others = dict([*embedded_texts(), *folder_texts(args.datasets)])
    text = FILE.read_text(encoding="utf-8")
    for one in standing():
        if not one.build:
            prompts = candidates(one, assets.fetch(one.source))
            numbers = near_items(prompts, others)
            print(f"{one.name}: {len(numbers)} of {len(prompts)} left out")
            text = written(text, one, numbers)
    if args.write:
        FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
