"""What is looked at before a run folder is gone on with, and the summary that grows with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import recipe
from fedrai.errors import RunError
from fedrai.federation.run import preparation
from fedrai.filter.screening import filter_change
from fedrai.runs import RunFolder, record

SUMMARISED = ("round-finished", "evaluation-finished", "finished")


def check_engine(folder: RunFolder, engine: str) -> None:
    """Whether a run began with this engine.

    Raises:
        RunError: it began with another one.
    """
    began = folder.info.get("engine", preparation.LOCAL)
    if began != engine:
        raise RunError(
            f"{folder.path} began with --engine {began}, and this is --engine {engine}",
            hint=f"name it:  fedrai run --resume {folder.path} --engine {began}",
        )


def moved_hint(path: Path) -> str:
    """What to do where a file of a run's recipe is not at its place any more."""
    return f"If it lies elsewhere now:  fedrai run --resume {path} --moved OLD=NEW"


def info_of(folder: RunFolder, prepared: preparation.PreparedRun) -> Mapping[str, Any]:
    """What `run.json` would hold now, under the names that the run's own recipe has for files."""
    named = recipe.load(folder.recipe_file)
    alignment = preparation.alignment_of(prepared.recipe, named)
    return {**prepared.info(), "recipe_hash": named.hash, "constitution": alignment}


def check_unchanged(folder: RunFolder, now: Mapping[str, Any]) -> Sequence[str]:
    """Whether everything that shapes a run's result is what it was when the run began.

    Args:
        folder: the run's; it records versions that changed.
        now: what `run.json` would hold now.

    Returns:
        Packages whose version changed: the result may differ in the last bits.

    Raises:
        RunError: something else changed.
    """
    before = folder.info
    if filter_change(before, now):
        raise RunError(
            f"{folder.path} cannot be resumed: {filter_change(before, now)}",
            hint=now["filter_skipped"] or "start a new run with --out",
        )
    data = "the clients' data"
    data += "" if now["filter"] == "off" else ", or what the filter keeps of them,"
    names = {
        "recipe_hash": "recipe.toml",
        "model_fingerprint": "the base model",
        "start_sha256": "the adapter that training starts from (adapter.start)",
        "data_fingerprint": data,
        "questions_fingerprint": "what evaluations ask",
        "constitution": "the constitution, or a file of requests,",
        "dtype": "the number format (set model.dtype)",
    }
    if name := first_change(before, now, names):
        raise RunError(
            f"{folder.path} cannot be resumed: {name} changed since the run began",
            hint="start a new run with --out",
        )
    changed = [p for p, v in now["versions"].items() if before.get("versions", {}).get(p) != v]
    if changed:
        folder.event("versions-changed", packages=changed)
    return changed


def first_change(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    """The name of the first key whose value is not what it was; empty: all are the same."""
    return next((name for key, name in names.items() if before.get(key) != now[key]), "")


def update_summary(folder: RunFolder, kind: str) -> None:
    """Write `summary.json` anew after an event that changes it."""
    if kind in SUMMARISED:
        record.write_summary(folder)
