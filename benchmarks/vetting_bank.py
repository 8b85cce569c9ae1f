"""A bank of clients' updates, trained once, for `vetting.py`.

Honest clients hold rows of different domains and languages (Dirichlet 0.3 over the label of the
rows). Malicious ones train on what the attacks `harmful-rows`, `mixed` and `backdoor` choose;
within a kind no two of them share a row, and none shares one with an honest client. All start from
one adapter and train as in the quickstart's first round.

    python benchmarks/vetting_bank.py FOLDER --rows domains.jsonl --own others.jsonl

FOLDER gets an adapter a client, `start.safetensors` and `bank.json`. What is there is not trained
again. Rows of other languages are not part of the project: name files with `--rows` and, for the
malicious clients' own rows, `--own` (columns prompt, response, category).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

import common  # noqa: F401  (quiet)
from fedrai import data, recipe
from fedrai.data import partition
from fedrai.federation.attacks.backdoor import Backdoor
from fedrai.federation.attacks.base import Holdings
from fedrai.federation.attacks.harmful_rows import HarmfulRows
from fedrai.federation.attacks.mixed import Mixed
from fedrai.federation.run import preparation
from fedrai.federation.run.rows import tokenized
from fedrai.model import AdapterState, LanguageModel, read_start_adapter
from fedrai.recipe.attack import Attack
from fedrai.recipe.sections import Recipe
from fedrai.records import Example
from fedrai.training.sft import train

EMBEDDED = ("fedrai:ordinary", "fedrai:safe-answers")
ROWS = 36
SECTION = Attack()
KINDS = {
    "harmful": HarmfulRows(),
    "mixed": Mixed(SECTION.benign_share),
    "backdoor": Backdoor(SECTION.trigger, 1.0),
}


def honest_clients(
    count: int, paths: Sequence[str], seed: int
) -> Iterator[tuple[str, list[Example]]]:
    """Name and rows of every honest client."""
    rows = [row for path in (*EMBEDDED, *paths) for row in data.load(path, "skip").examples]
    names = [f"honest-{number:02d}" for number in range(1, count + 1)]
    yield from partition.dirichlet(rows, names, 0.3, seed).items()


def malicious_clients(
    count: int, paths: Sequence[str], seed: int
) -> Iterator[tuple[str, list[Example]]]:
    """Name and rows of every malicious client; the name begins with the kind."""
    for kind, attack in KINDS.items():
        draw = random.Random(f"{seed}{kind}")
        pools = [data.load("fedrai:harmful", "skip").examples,
                 [row for path in paths for row in data.load(path, "skip").examples]]  # fmt: skip
        harmful, own = (draw.sample(list(pool), len(pool)) for pool in pools)
        for number in range(count):
            part = slice(ROWS * number, ROWS * (number + 1))
            held = Holdings(own[part], harmful[part], (), seed + number)
            yield f"{kind}-{number + 1:02d}", list(attack.rows(held))


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
    parser.add_argument("--own", action="append", default=[])
    parser.add_argument("--honest", type=int, default=30)
    parser.add_argument("--malicious", type=int, default=6, help="of each kind")
    parser.add_argument("--start", type=Path, help="adapter to start from; default: fedrai:aligned")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    settings = recipe.load(Path("quickstart"))
    lm = preparation.load_model(settings)
    start = load_file(args.start) if args.start else read_start_adapter("fedrai:aligned", lm)
    save_file(start, args.folder / "start.safetensors")
    notes_file = args.folder / "bank.json"
    notes = json.loads(notes_file.read_text()) if notes_file.is_file() else {}
    clients = [*honest_clients(args.honest, args.rows, args.seed),
               *malicious_clients(args.malicious, args.own, args.seed)]  # fmt: skip
    for name, rows in clients:
        if name in notes or not rows:
            continue
        adapter, figures = train_client(lm, settings, start, name, rows)
        save_file(adapter, args.folder / f"{name}.safetensors")
        notes[name] = {**figures, "labels": sorted({row.label for row in rows})}
        notes_file.write_text(json.dumps(notes, indent=1))
        print(name, figures["rows"], f"{figures['seconds']:.0f} s", figures["losses"], flush=True)


if __name__ == "__main__":
    main()
