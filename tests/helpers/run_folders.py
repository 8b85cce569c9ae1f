"""Small run folders, written by hand as `runs`, `server` and `filter` write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrai.rates import Rate, rate_json

COST = {"seconds": 0.0, "tokens": 0, "operations": 0.0, "peak_bytes": 0, "bytes_down": 0,
        "bytes_up": 0}  # fmt: skip


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def cost(**values: float) -> dict[str, float]:
    return {**COST, **values}


def write_run(
    path: Path,
    *,
    seed: int = 0,
    rows: int = 20,
    harmful: int = 6,
    rounds: int = 2,
    safe: tuple[Rate, Rate] = (Rate(1, 10), Rate(2, 10)),
    refused: tuple[Rate, Rate] = (Rate(0, 10), Rate(1, 10)),
    loss: tuple[float, float] = (3.0, 2.5),
    training: float = 10.0,
    filtered: bool = False,
    info: Mapping[str, Any] | None = None,
    reports: Mapping[int, Any] | None = None,
) -> Path:
    """A finished run of two clients that was evaluated before and after."""
    body = {
        "name": path.name, "recipe_hash": "a" * 64, "model": "tiny", "model_fingerprint": "b" * 64,
        "start": "", "start_sha256": "", "data_fingerprint": "c" * 64,
        "questions_fingerprint": "d" * 64, "rows": {"one": rows // 2, "two": rows - rows // 2},
        "harmful_rows": {"one": harmful, "two": 0}, "filter": "drop" if filtered else "off",
        "filter_skipped": "", "constitution": None, "bad_rows": [], "bad_row_count": 1,
        "versions": {"python": "3.12.1", "fedrai": "0.1.0"}, "machine": "a machine",
        "device": "cpu", "dtype": "float32", "created": "2026-01-02T03:04:05.000+00:00",
    }  # fmt: skip
    put(path / "run.json", {**body, **(info or {})})
    settings = f'seed = {seed}\n[federation]\nmode = "federated"\nrounds = {rounds}\n'
    (path / "recipe.toml").write_text(f'{settings}[aggregation]\nalgorithm = "fedavg"\n')
    for number in range(1, rounds + 1):
        put(path / f"rounds/{number:04d}/round.json", round_body(number, training, reports or {}))
    for place, number in enumerate((0, rounds)):
        figures = {
            "rates": {"safe": rate_json(safe[place]), "refused": rate_json(refused[place])},
            "held_out_loss": loss[place],
            "held_out_tokens": 100,
            "costs": {"evaluation": cost(seconds=7.0, tokens=30)},
        }
        put(path / f"evaluations/{number:04d}/metrics.json", figures)
    if filtered:
        write_filter(path)
    (path / "events.jsonl").write_text('{"event": "started"}\n{"event": "finished"}\n')
    return path


def round_body(number: int, training: float, reports: Mapping[int, Any]) -> dict[str, Any]:
    clients = {
        "one": {"num-examples": 10.0, "loss-last": 2.0, "update-norm": 1.0 * number},
        "two": {"num-examples": 10.0, "loss-last": 2.0, "update-norm": 3.0 * number},
    }
    costs = {"training": cost(seconds=training, tokens=100, operations=2e12, bytes_up=1_000_000)}
    body = {"round": number, "clients": clients, "set_aside": {}, "loss_first": 3.0,
            "loss_last": 2.0 + number, "costs": costs}  # fmt: skip
    if number in reports:
        body["constitution"] = reports[number]
        costs["constitution"] = cost(seconds=1.0, operations=1e12)
    return body


def ledger(rows: int, **categories: int) -> dict[str, Any]:
    unsafe = sum(categories.values())
    return {
        "guard": "words@1", "threshold": 0.5, "mode": "drop", "part": "pair", "rows": rows,
        "kept": rows - unsafe, "dropped": unsafe, "replaced": 0, "unsafe": unsafe,
        "unscored": {"empty": 1, "failed": 0}, "categories": {"drugs": 0, **categories},
        "removed": ["0123456789abcdef"],
    }  # fmt: skip


def write_filter(path: Path) -> None:
    put(path / "clients/one.filter.json", ledger(13, hate=2, cyber=1))
    put(path / "clients/two.filter.json", ledger(11, hate=4))
    confusion = {"harmful_in": 8, "harmful_kept": 2, "benign_in": 16, "benign_removed": 1}
    total = {**ledger(24, hate=6, cyber=1), "confusion": confusion}
    body = {"total": total, "cost": cost(seconds=4.0, operations=1e12), "skipped": ""}
    put(path / "filter.json", body)


def report_body(**changes: Any) -> dict[str, Any]:
    """What an alignment that ran leaves in its round."""

    def probe(safe: float, useful: float) -> dict[str, float]:
        return {"safe": safe, "useful": useful, "harmful": 4, "harmless": 8}

    body = {
        "ran": True, "why": "every round", "steps": 30, "stopped": "30 steps", "requests": 40,
        "kept": 10, "yield": 0.25, "reused": False, "outcomes": {"kept": 10, "unsafe": 30},
        "trace": [{"step": 10, "safe": 0.75, "useful": 0.5, "score": 0.6},
                  {"step": 20, "safe": 1.0, "useful": 0.625, "score": 0.8}],
        "probe_before": probe(0.25, 0.5), "probe_after": probe(1.0, 0.75),
        "full_operations": 4e12,
    }  # fmt: skip
    return {**body, **changes}


MINING = {
    "harmful": {"pool": 66, "failed": 16, "unscored": 2, "unsafe": 9, "taken": 12, "filled": 0},
    "harmless": {"pool": 64, "failed": 4, "unscored": 0, "unsafe": 0, "taken": 4, "filled": 20},
}


def write_answers(path: Path, number: int, answers: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    file = path / f"evaluations/{number:04d}/advbench.jsonl"
    file.write_text(lines, encoding="utf-8")


def answer(number: int, prompt: str, text: str, reply: str) -> dict[str, Any]:
    return {"number": number, "prompt": prompt, "answer": text, "reply": reply, "legacy": False}
