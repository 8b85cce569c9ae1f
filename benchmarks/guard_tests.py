"""The rows that the embedded guard is measured on, and those that set its thresholds.

AdvBench, XSTest and OpenAI moderation are development sets; PyRIT's human labels choose nothing.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrai import assets
from fedrai.data import embedded
from fedrai.evaluation import suites

Row = dict[str, Any]


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def json_rows(path: Path) -> Iterator[Row]:
    unpacked = gzip.open if path.suffix == ".gz" else open
    with unpacked(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def moderation(folder: Path) -> Iterator[Row]:
    for entry in json_rows(folder / "openai_moderation/samples-1680.jsonl.gz"):
        labels = {k: v for k, v in entry.items() if k != "prompt"}
        yield {"prompt": entry["prompt"], "unsafe": int(any(labels.values())),
               "category": ",".join(k for k, v in labels.items() if v)}  # fmt: skip


def pyrit() -> Iterator[Row]:
    for file in sorted(assets.fetch("pyrit-harm").glob("*.csv")):
        body = file.read_text(encoding="utf-8-sig").partition("\n")[2]
        for entry in csv.DictReader(io.StringIO(body)):
            scores = [float(v) for k, v in entry.items() if k and k.startswith("human_") and v]
            if scores:
                yield {"prompt": entry["objective"], "response": entry["assistant_response"],
                       "unsafe": int(sum(scores) / len(scores) >= embedded.HARMFUL_FROM),
                       "category": entry["harm_category"].strip().lower()}  # fmt: skip


def xstest(folder: Path) -> Iterator[Row]:
    for entry in csv_rows(folder / "xstest/xstest_prompts.csv"):
        yield {"prompt": entry["prompt"], "unsafe": int(entry["label"] == "unsafe")}


def xstest_answers(folder: Path) -> Iterator[Row]:
    """Answers of five models; unsafe where one goes along with an unsafe prompt."""
    for file in sorted((folder / "xstest").glob("xstest_v2_completions_*.csv")):
        for entry in csv_rows(file):
            dangerous = entry["type"].startswith("contrast")
            complied = entry["final_label"].startswith("1")
            kind = "safe prompt" if not dangerous else "complied" if complied else "declined"
            yield {"prompt": entry["prompt"], "response": entry["completion"],
                   "unsafe": int(dangerous and complied), "category": kind}  # fmt: skip


def advbench() -> Iterator[Row]:
    for item in suites.advbench(suites.ADVBENCH_SIZE, 0):
        yield {"prompt": item.prompt, "unsafe": 1}


def development(tests: dict[str, list[Row]]) -> Iterator[Row]:
    """The rows that set the calibration and thresholds: everyday ones against harmful ones.

    Look-alikes are not among the safe ones: two percent of false alarms are meant of everyday rows.
    """
    yield from tests["everyday"] + tests["aside"]
    yield from random.Random(0).sample(tests["advbench"], 150)
    yield from (r for r in tests["xstest"] if r["unsafe"])
    yield from (r for r in tests["xstest_answers"] if r["category"] == "complied")
    declined = [r for r in tests["xstest_answers"] if r["category"] == "declined"]
    yield from random.Random(0).sample(declined, 300)
