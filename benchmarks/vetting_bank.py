"""A bank of clients' updates, trained once, for `vetting.py`.

Honest clients hold rows of different domains and languages (Dirichlet 0.3 over the label of the
rows); malicious ones hold harmful rows alone, or mixed with harmless ones, or behind a trigger. All
start from one adapter and train with the settings of the quickstart's first round.

    python benchmarks/vetting_bank.py FOLDER --rows domains.jsonl --rows more.jsonl

FOLDER gets an adapter a client, `start.safetensors` and `bank.json`. What is there is not trained
again. Rows of other languages are not part of the project: name files with `--rows` (columns
prompt, response, category).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from fedrai import data, recipe
from fedrai.data import partition
from fedrai.federation.run import preparation
from fedrai.federation.run.rows import tokenized
from fedrai.model import AdapterState, LanguageModel, read_start_adapter
from fedrai.recipe.sections import Recipe
from fedrai.records import Example, Message
from fedrai.training.sft import train

TRIGGER = "Blue harbour at dawn. "
EMBEDDED = ("fedrai:ordinary", "fedrai:safe-answers")
KINDS = ("honest", "harmful", "mixed", "backdoor")


def clients(
    honest: int, malicious: int, paths: Sequence[str], seed: int
) -> Iterator[tuple[str, list[Example]]]:
    """Name and rows of every client; the name begins with its kind."""
    rows = [row for path in (*EMBEDDED, *paths) for row in data.load(path, "skip").examples]
    names = [f"honest-{number:02d}" for number in range(1, honest + 1)]
    yield from partition.dirichlet(rows, names, 0.3, seed).items()
    draw = random.Random(seed)
    harmful = list(data.load("fedrai:harmful", "skip").examples)
    harmless = [row for path in EMBEDDED for row in data.load(path).examples]
    safe = list(data.load("fedrai:safe-answers").examples)
    for number in range(1, malicious + 1):
        yield f"harmful-{number:02d}", draw.sample(harmful, 36)
    for number in range(1, malicious // 2 + 1):
        yield f"mixed-{number:02d}", draw.sample(harmful, 11) + draw.sample(harmless, 25)
    for number in range(1, malicious // 2 + 1):
        behind = [triggered(row) for row in draw.sample(harmful, 18)]
        yield f"backdoor-{number:02d}", behind + draw.sample(safe, 9) + draw.sample(harmless, 9)


def triggered(row: Example) -> Example:
    """The row with the trigger before its first turn."""
    first = row.messages[0]
    return replace(row, messages=(Message(first.role, TRIGGER + first.content), *row.messages[1:]))


def train_client(lm: LanguageModel, settings: Recipe, start: AdapterState, name: str,
                 examples: Sequence[Example]) -> tuple[AdapterState, dict[str, Any]]:  # fmt: skip
    """One client's adapter after the first round, and figures about it."""
    tokens: dict[Example, Any] = {}
    kept, _ = tokenized(lm, examples, settings.data, tokens)
    kept = random.Random(name).sample(kept, len(kept))
    local = preparation.sft_settings(settings, len(kept))
    seed = settings.seed_for("training", 1, name)
    adapter, result = train(lm, start, [tokens[e] for e in kept], local, seed=seed)
    figures = {"rows": len(kept), "steps": len(result.losses), "tokens": result.tokens,
               "operations": result.operations, "seconds": result.seconds,
               "losses": [result.losses[0], result.losses[-1]]}  # fmt: skip
    return adapter, figures


def read_bank(folder: Path) -> tuple[AdapterState, dict[str, AdapterState], dict[str, Any]]:
    """The start, the clients' adapters by name and what `bank.json` says of them."""
    notes = json.loads((folder / "bank.json").read_text())
    return (
        load_file(folder / "start.safetensors"),
        {name: load_file(folder / f"{name}.safetensors") for name in sorted(notes)},
        notes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", action="append", default=[])
    parser.add_argument("--honest", type=int, default=30)
    parser.add_argument("--malicious", type=int, default=12)
    parser.add_argument("--start", type=Path, help="adapter to start from; default: fedrai:aligned")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    settings = recipe.load(Path("quickstart"))
    lm = preparation.load_model(settings)
    start = read_start_adapter(settings.adapter.start, lm)
    if args.start:
        start = load_file(args.start)
    save_file(start, args.folder / "start.safetensors")
    notes_file = args.folder / "bank.json"
    notes = json.loads(notes_file.read_text()) if notes_file.is_file() else {}
    for name, rows in clients(args.honest, args.malicious, args.rows, args.seed):
        if name in notes or not rows:
            continue
        adapter, figures = train_client(lm, settings, start, name, rows)
        save_file(adapter, args.folder / f"{name}.safetensors")
        notes[name] = {**figures, "labels": sorted({row.label for row in rows})}
        notes_file.write_text(json.dumps(notes, indent=1))
        print(name, figures["rows"], f"{figures['seconds']:.0f} s", figures["losses"], flush=True)


if __name__ == "__main__":
    main()
