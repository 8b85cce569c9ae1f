"""Finished runs of a comparison with answers, written by hand as `server` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import recipe
from fedrai.evaluation.macro import macro_mean
from fedrai.rates import rate, rate_json
from fedrai.report.comparing.layout import PlannedRun
from fedrai.report.comparing.reading import ComparedRun, read

COST = {"seconds": 1.0, "tokens": 10, "operations": 0.0, "peak_bytes": 0, "bytes_down": 2_000_000,
        "bytes_up": 1_000_000}  # fmt: skip
REPLY = {True: "refusal", False: "compliance", None: "unscored"}
TABLE = {"name": "study", "model": {"base": "x"}, "data": {"sources": [{"path": "x"}]}}

Refused = Sequence[bool | None]


def answers(
    refused_flags: Refused, prefix: str = "p", guard: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Answers to prompts 0, 1 ...; refused or not, or broken."""
    return [
        {"number": n, "prompt": f"{prefix}{n}", "answer": "SECRET", "reply": REPLY[refused],
         "legacy": bool(refused), **({"guard": guard[n]} if guard else {})}
        for n, refused in enumerate(refused_flags)
    ]  # fmt: skip


def outside(
    sets: Mapping[str, tuple[str, Refused]],
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """`outside` of an evaluation and the answers, of sets by name: (side, whether refused)."""
    measures = {"harmful": "safe", "harmless": "refused"}
    means = {
        measure: macro_mean([[flags] for side, flags in sets.values() if side == wanted])
        for wanted, measure in measures.items()
    }
    figures = {
        "means": {name: mean.to_json() for name, mean in means.items() if mean is not None},
        "sets": {
            name: {"title": name.title(), "manner": "question", "side": side,
                   "rates": {measures[side]: rate_json(rate(flags))}}
            for name, (side, flags) in sets.items()
        },
    }  # fmt: skip
    return figures, {name: answers(flags, name) for name, (_, flags) in sets.items()}


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def evaluation(
    folder: Path,
    safe: Refused,
    xstest: Refused | None = None,
    ordinary: Refused = (False,),
    *,
    loss: float | None = 2.0,
    rates: Mapping[str, Any] | None = None,
    rows: Mapping[str, list[dict[str, Any]]] | None = None,
    **more: Any,
) -> None:
    """An evaluation: outcomes of AdvBench, XSTest's safe prompts and ordinary instructions."""
    figures = {"safe": rate(safe), "refused": rate(ordinary)}
    suites = {"advbench": answers(safe), "ordinary": answers(ordinary, "o")}
    if xstest is not None:
        figures["xstest-safe-refused"] = rate(xstest)
        suites["xstest-safe"] = answers(xstest, "x")
    body = {
        "rates": {name: rate_json(value) for name, value in figures.items()} | dict(rates or {}),
        "held_out_loss": loss, "held_out_tokens": 10, "costs": {}, **more,
    }  # fmt: skip
    put(folder / "metrics.json", body)
    for name, lines in {**suites, **(rows or {})}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(
    path: Path,
    safe: Refused,
    xstest: Refused | None = None,
    *,
    seed: int = 0,
    operations: float = 1e12,
    settings: str = "",
    harmful: int = 6,
    filtered: Mapping[str, Any] | None = None,
    finished: bool = True,
    **more: Any,
) -> PlannedRun:
    """A run of two clients and one round; its base model refuses nothing."""
    body = {
        "name": path.name, "recipe_hash": "a", "start": "", "rows": {"one": 10, "two": 10},
        "harmful_rows": {"one": harmful}, "filter": "drop" if filtered else "off",
        "filter_skipped": "", "constitution": None, "bad_row_count": 0,
        "model_fingerprint": "m", "questions_fingerprint": "q",
    }  # fmt: skip
    put(path / "run.json", body)
    text = settings or '[federation]\nmode = "federated"\nrounds = 1\n'
    (path / "recipe.toml").write_text(f"seed = {seed}\n{text}")
    costs = {"training": {**COST, "operations": operations}}
    put(path / "rounds/0001/round.json", {"round": 1, "clients": {}, "costs": costs})
    evaluation(path / "evaluations/0000", [False] * len(safe), xstest and [False] * len(xstest))
    evaluation(path / "evaluations/0001", safe, xstest, **more)
    if filtered:
        put(path / "filter.json", filtered)
    events = '{"event": "started"}\n' + ('{"event": "finished"}\n' if finished else "")
    (path / "events.jsonl").write_text(events)
    return PlannedRun(path.name, seed, "", path, recipe.validate(TABLE))


def read_runs(*plan: PlannedRun) -> list[ComparedRun]:
    return read(plan)
