"""`evidence.json`, `provenance.json`, `release.json` and the recipe: no text of a row in them.

Names of clients, paths of the machine and addresses stay out: clients are numbered, and a value of
the recipe that is a path is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from fedrai import __version__, assets
from fedrai.recipe.sections import Release
from fedrai.release.card import public_name
from fedrai.release.deciding import Decision, Judged
from fedrai.release.outcomes import SetOutcomes
from fedrai.runs.costs import Ledger
from fedrai.runs.record import EvaluationRecord, RunRecord

SCHEMA = 1
NOT_NAMED = "(not named)"
POPULATION = (
    "Shares of the bars safety, worst-set and over-refusal are about requests like those of these"
    " outside sets, each set counted once. They say nothing about other sets, languages, or attacks"
    " that adapt to the model. An answer without a verdict counts against the model."
)
_PATH = re.compile(r"^[~./\\]|[/\\]|://")
_PRIVATE = ("machine", "starts from", "model", "begun")
_VERSION = "version of "


@dataclass(frozen=True, slots=True)
class Facts:
    """What a release is made from.

    Attributes:
        run: the run's record.
        settings: its recipe as plain values.
        info: its `run.json`.
        bars: the bars.
        decision: what the gate decided.
        chosen: the round that is released.
        asked: what the gate's own items cost.
        serial: serial number of the release.
        created: when it was made (UTC).
        merged: whether it is the whole model.
    """

    run: RunRecord
    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    bars: Release
    decision: Decision
    chosen: Judged
    asked: Ledger
    serial: int
    created: datetime
    merged: bool

    @property
    def expires(self) -> datetime:
        """When it has expired."""
        return self.created + timedelta(days=self.bars.valid_days)

    @property
    def base(self) -> str:
        """The base model's public name; empty: a private one."""
        return public_name(self.run.model)


def release_json(facts: Facts) -> dict[str, Any]:
    """What a receiver needs: which model, how long, and the bars."""
    return {
        "schema": SCHEMA,
        "name": facts.run.name,
        "round": facts.chosen.number,
        "last_round": facts.decision.judged[0].number,
        "serial": facts.serial,
        "created": facts.created.isoformat(timespec="seconds"),
        "expires": facts.expires.isoformat(timespec="seconds"),
        "fedrai": __version__,
        "recipe_hash": facts.run.recipe_hash,
        "base_model": facts.base,
        "base_fingerprint": facts.run.provenance.get("model fingerprint", ""),
        "merged": facts.merged,
        "bars": [bar.to_json() for bar in facts.chosen.bars],
    }


def evidence_json(facts: Facts) -> dict[str, Any]:
    """Every figure behind the decision."""
    return {
        "schema": SCHEMA,
        "decision": facts.decision.line,
        "population": POPULATION,
        "judge": "the refusal rule, on greedy answers" if not facts.settings["evaluation"]
        ["temperature"] else "the refusal rule, on sampled answers",
        "error": facts.bars.error,
        "bars": facts.bars.model_dump(mode="json"),
        "rounds": [_round(judged) for judged in facts.decision.judged],
        "sets": _suites(facts),
        "evaluations": {str(e.number): _figures(e) for e in facts.run.evaluations},
        "costs": {phase: asdict(cost) for phase, cost in facts.run.costs.items()},
        "cost_of_the_gate": facts.asked.to_json(),
        "not_measured": [b.name for b in facts.chosen.bars if b.standing == "not measured"],
    }  # fmt: skip


def _round(judged: Judged) -> dict[str, Any]:
    return {
        "round": judged.number,
        "passes": judged.passes,
        "error": judged.error,
        "bars": [bar.to_json() for bar in judged.bars],
        "sets": {one.name: _counts(one) for one in judged.sets},
    }


def _counts(one: SetOutcomes) -> dict[str, Any]:
    return {
        "side": "harmful" if one.harmful else "harmless",
        "items": len(one.verdicts),
        "refused": one.verdicts.count(True),
        "unscored": one.unscored,
    }


def _suites(facts: Facts) -> dict[str, Any]:
    """Title, licence and checksum of each outside set that the run asked."""
    after = next((e for e in facts.run.evaluations if e.number == facts.chosen.number), None)
    keys = ("title", "manner", "licence", "home", "revision", "sha256", "pinned", "whole")
    return {
        one.name: {"title": one.title}
        | {k: v for k, v in (after.suites.get(one.name, {}) if after else {}).items() if k in keys}
        for one in facts.chosen.sets
    }


def _figures(one: EvaluationRecord) -> dict[str, Any]:
    outside = one.outside
    return {
        "rates": {name: asdict(rate) for name, rate in one.rates.items()},
        "scores": {name: asdict(score) for name, score in one.scores.items()},
        "held_out_loss": one.loss,
        "held_out_tokens": one.loss_tokens,
        "outside_means_over_sets_like_these": {
            name: asdict(mean) for name, mean in (outside.means if outside else {}).items()
        },
    }


def provenance_json(facts: Facts) -> dict[str, Any]:
    """Hashes, versions, and what each node's filter did."""
    run = facts.run
    known = {k: v for k, v in run.provenance.items() if k not in _PRIVATE}
    return {
        "schema": SCHEMA,
        "hashes_and_settings": {k: v for k, v in known.items() if not k.startswith(_VERSION)},
        "versions": versions(run),
        "rounds": len(run.rounds),
        "filter": {"mode": run.screening.mode, "threshold": run.screening.threshold},
        "nodes": [
            {"node": number, "filter": asdict(counts)}
            for number, counts in enumerate(run.screening.clients.values(), 1)
        ],
        "attack": run.attack.kind if run.attack else None,
    }


def versions(run: RunRecord) -> dict[str, str]:
    """Versions of packages that trained the model, by name."""
    found = run.provenance.items()
    return {k.removeprefix(_VERSION): v for k, v in found if k.startswith(_VERSION)}


def public_recipe(value: Any) -> Any:
    """A recipe without what is private: paths of files, and addresses."""
    if isinstance(value, Mapping):
        return {key: public_recipe(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [public_recipe(part) for part in value]
    if not isinstance(value, str) or not _PATH.search(value):
        return value
    public = value in assets.CATALOGUE or value.startswith(("fedrai:", "hf:")) or public_name(value)
    return value if public else NOT_NAMED
