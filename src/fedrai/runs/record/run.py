"""A run folder -> `RunRecord`: `run.json`, `recipe.toml`, filter, rounds and evaluations.

Reads JSON and the resolved recipe; never an adapter, and no text of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai.errors import RunError
from fedrai.recipe.toml_files import read_toml
from fedrai.runs.costs import Cost, Ledger
from fedrai.runs.folder import RunFolder
from fedrai.runs.record.attack import AttackRecord
from fedrai.runs.record.evaluations import EvaluationRecord
from fedrai.runs.record.membership import MembershipRecord, read_checks
from fedrai.runs.record.privacy import PrivacyRecord
from fedrai.runs.record.rounds import AlignmentRecord, RoundRecord
from fedrai.runs.record.screening import ScreeningRecord, read_screening
from fedrai.runs.record.values import (
    Json,
    as_count,
    as_counts,
    as_number,
    as_total,
    json_of,
    part,
    word,
)


@dataclass(frozen=True, slots=True)
class ConstitutionRecord:
    """The constitution of a run, and the sum of its alignments.

    Attributes:
        schedule: when it runs.
        hash: hash of its text and settings.
        alignments: how many ran.
        steps: steps of all of them.
        full_operations: estimate for the full schedule over the same rounds: the mean estimate of
            the alignments times the rounds; None without an estimate.
        saving: share of the full schedule's operations that was saved; below 0 where it took more.
    """

    schedule: str
    hash: str
    alignments: int
    steps: int
    full_operations: float | None
    saving: float | None

    @classmethod
    def of(
        cls, settings: Json, reports: Sequence[AlignmentRecord], operations: float
    ) -> ConstitutionRecord:
        """Add up the alignments of all rounds.

        Args:
            settings: the constitution's part of `run.json`.
            reports: reports of all rounds, including those without an alignment.
            operations: operations of all alignments, including probes.
        """
        ran = [report for report in reports if report.ran]
        each = [report.full_operations for report in ran if report.full_operations]
        full = len(reports) * sum(each) / len(each) if each else None
        return cls(
            word(settings, "schedule"),
            word(settings, "hash"),
            len(ran),
            sum(report.steps or 0 for report in ran),
            full,
            1 - operations / full if full else None,
        )


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

    Attributes:
        path: its folder.
        name: name in its recipe.
        recipe_hash: hash of its recipe.
        engine: "local" or "flower".
        label: its name in a report, which is unique there.
        mode: "federated", "centralised" or "local".
        share: harmful share of its clients' rows, from the recipe.
        finished: whether it reached its end.
        plain: whether it is federated averaging without filter and constitution.
        model: name of the base model.
        start: adapter that training starts from; empty: a fresh one.
        seed: seed of the recipe.
        rows: rows of all clients that were trained on.
        harmful_rows: those of them from a harmful source; None: not known, as on a deployment.
        held_rows: usable rows by client and source, before the filter; empty where clients are on
            other machines, and in runs of earlier versions.
        trained_rows: the same after it, with those whose answer it replaced.
        client_rows: rows that were trained on, by client; empty where clients are on other
            machines.
        bad_rows: rows that could not be used; None: no client reported them.
        bad_rows_unreported: number of clients without such a report, on a deployment.
        bad_row_problems: the commonest reasons why, with their rows.
        unread_columns: columns that nothing reads, with their rows.
        held_out_bad_rows: unusable rows of the held-out loss.
        clients: how many.
        planned_rounds: rounds in the recipe.
        evaluations: evaluations by round.
        rounds: the committed ones.
        screening: the results of the filter.
        constitution: None if the recipe has none.
        costs: costs by phase.
        provenance: origin of the result: hashes, versions, machine.
        attack: malicious clients of an experiment; None: there are none.
        membership: membership checks of its models, by round.
    """

    path: Path
    name: str
    recipe_hash: str
    engine: str
    label: str
    mode: str
    share: float | None
    finished: bool
    plain: bool
    model: str
    start: str
    seed: int | None
    rows: int | None
    harmful_rows: int | None
    held_rows: Mapping[str, Mapping[str, int]]
    trained_rows: Mapping[str, Mapping[str, int]]
    client_rows: Mapping[str, int]
    bad_rows: int | None
    bad_rows_unreported: int
    bad_row_problems: Mapping[str, int]
    unread_columns: Mapping[str, int]
    held_out_bad_rows: int
    clients: int | None
    planned_rounds: int | None
    evaluations: tuple[EvaluationRecord, ...]
    rounds: tuple[RoundRecord, ...]
    screening: ScreeningRecord
    constitution: ConstitutionRecord | None
    costs: Mapping[str, Cost]
    provenance: Mapping[str, str]
    attack: AttackRecord | None = None
    membership: tuple[MembershipRecord, ...] = ()

    @property
    def arm(self) -> str:
        """Name of its folder, which is that of its arm."""
        return self.path.resolve().name

    @property
    def privacy(self) -> PrivacyRecord | None:
        """The guarantee after the last round; None: the run has no noise."""
        return self.rounds[-1].privacy if self.rounds else None

    @property
    def cost(self) -> Cost:
        """Total cost without evaluations."""
        parts = (cost for phase, cost in self.costs.items() if phase != "evaluation")
        return sum(parts, Cost())

    @property
    def shared_seconds(self) -> float:
        """Seconds of its costs that other runs spent, whose rounds it took over."""
        return sum(one.shared_seconds for one in self.rounds)

    @property
    def shared_rounds(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the rounds that it took over, by the run that trained them."""
        sources = dict.fromkeys(one.shared_from for one in self.rounds if one.shared_from)
        return {source: tuple(one.number for one in self.rounds if one.shared_from == source)
                for source in sources}  # fmt: skip

    @property
    def before(self) -> EvaluationRecord | None:
        """The evaluation before the first round."""
        return next((e for e in self.evaluations if e.number == 0), None)

    @property
    def after(self) -> EvaluationRecord | None:
        """The last evaluation after a round."""
        return next((e for e in reversed(self.evaluations) if e.number > 0), None)


def read(folder: RunFolder, label: str = "") -> RunRecord:
    """Read one run.

    Args:
        folder: its folder.
        label: its name in a report; empty: the folder's name.

    Raises:
        RunError: a file is missing or damaged.
    """
    info = folder.info
    settings = recipe_of(folder)
    federation = part(settings, "federation")
    mode = str(federation.get("mode", "federated"))
    rows = part(info, "rows")
    rounds = _rounds(folder)
    evaluations = _evaluations(folder, max(1, len(rows)) if mode == "local" else 1)
    bad_rows, unreported = _bad_rows(info, rounds)
    screening = read_screening(folder, info, settings, rounds)
    costs = _costs(rounds, evaluations, screening)
    return RunRecord(
        path=folder.path,
        name=word(info, "name"),
        recipe_hash=word(info, "recipe_hash"),
        engine=word(info, "engine"),
        label=label or folder.path.resolve().name,
        mode=mode,
        share=as_number(part(part(settings, "data"), "harm").get("share")),
        finished=folder.is_finished(),
        plain=_plain(info, settings, screening),
        model=word(info, "model"),
        start=word(info, "start"),
        seed=as_count(settings.get("seed")),
        rows=as_total(info.get("rows")),
        harmful_rows=as_total(info.get("harmful_rows") or None),
        held_rows=_counts_by_client(info, "held_rows"),
        trained_rows=_counts_by_client(info, "trained_rows"),
        client_rows=as_counts(info.get("rows")),
        bad_rows=bad_rows,
        bad_rows_unreported=unreported,
        bad_row_problems=as_counts(info.get("bad_row_problems")),
        unread_columns=as_counts(info.get("unread_columns")),
        held_out_bad_rows=as_count(info.get("held_out_bad_rows")) or 0,
        clients=len(rows) or None,
        planned_rounds=as_count(federation.get("rounds")),
        evaluations=evaluations,
        rounds=rounds,
        screening=screening,
        constitution=_constitution(info, rounds, costs),
        costs=costs,
        provenance=_provenance(info, settings),
        attack=AttackRecord.of(info),
        membership=read_checks(folder),
    )


def _counts_by_client(info: Json, key: str) -> dict[str, dict[str, int]]:
    return {name: as_counts(counts) for name, counts in part(info, key).items()}


def recipe_of(folder: RunFolder) -> Json:
    """The resolved recipe of a run as a table, not validated; empty if it is missing.

    Raises:
        RunError: it is damaged.
    """
    file = folder.recipe_file
    try:
        return read_toml(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({type(error).__name__})") from error


def _rounds(folder: RunFolder) -> tuple[RoundRecord, ...]:
    files = ((n, f"rounds/{n:04d}/round.json") for n in folder.rounds())
    return tuple(RoundRecord.from_json(n, json_of(folder, file)) for n, file in files)


def _evaluations(folder: RunFolder, models: int) -> tuple[EvaluationRecord, ...]:
    """The evaluations of a run, of `models` models each after the first round."""
    files = ((n, f"evaluations/{n:04d}/metrics.json") for n in folder.evaluations())
    return tuple(
        EvaluationRecord.from_json(n, json_of(folder, file), models if n else 1)
        for n, file in files
    )


def _plain(info: Json, settings: Json, screening: ScreeningRecord) -> bool:
    algorithm = part(settings, "aggregation").get("algorithm", "fedavg")
    mode = part(settings, "federation").get("mode", "federated")
    neither = screening.mode == "off" and not info.get("constitution")
    return bool(neither and algorithm == "fedavg" and mode == "federated")


def client_reports(engine: str, rounds: Sequence[RoundRecord]) -> Mapping[str, Mapping[str, float]]:
    """The last numbers of each client of a deployment; nothing for clients of one process.

    Args:
        engine: the run's engine.
        rounds: its committed rounds.
    """
    if engine != "flower":
        return {}
    return {name: numbers for one in rounds for name, numbers in one.clients.items()}


def _bad_rows(info: Json, rounds: Sequence[RoundRecord]) -> tuple[int | None, int]:
    """Unusable rows, None without any report; and the number of clients that report none."""
    engine = word(info, "engine")
    if engine != "flower":
        return as_count(info.get("bad_row_count")), 0
    reports = client_reports(engine, rounds).values()
    counts = [numbers["bad-rows"] for numbers in reports if "bad-rows" in numbers]
    return int(sum(counts)) if counts else None, len(reports) - len(counts)


def _constitution(
    info: Json, rounds: Sequence[RoundRecord], costs: Mapping[str, Cost]
) -> ConstitutionRecord | None:
    settings = part(info, "constitution")
    if not settings:
        return None
    reports = [one.alignment for one in rounds if one.alignment is not None]
    return ConstitutionRecord.of(settings, reports, costs.get("constitution", Cost()).operations)


def _costs(
    rounds: Sequence[RoundRecord],
    evaluations: Sequence[EvaluationRecord],
    screening: ScreeningRecord,
) -> dict[str, Cost]:
    ledger = Ledger()
    for costs in [*(one.costs for one in rounds), *(one.costs for one in evaluations)]:
        for phase, cost in costs.items():
            ledger.add(phase, cost)
    if screening.cost is not None:
        ledger.add("filter", screening.cost)
    return ledger.phases


def _defence(method: object) -> str:
    """The names of a recipe's defences, in their order."""
    return ", ".join(map(str, method)) if isinstance(method, list) else str(method or "")


def _noise(settings: Json) -> str:
    """Who adds noise, and how much; empty: nobody does."""
    noise = word(settings, "noise")
    if noise in ("", "off"):
        return ""
    multiplier = settings.get("noise_multiplier") or "found for an epsilon"
    return f"on the {noise}, clip {settings.get('clip')}, multiplier {multiplier}"


def _provenance(info: Json, settings: Json) -> dict[str, str]:
    sampled = part(settings, "federation").get("clients_per_round")
    attack = AttackRecord.of(info)
    described = {
        "recipe": info.get("name"),
        "recipe hash": info.get("recipe_hash"),
        "seed": settings.get("seed"),
        "begun": info.get("created"),
        "model": info.get("model"),
        "model fingerprint": info.get("model_fingerprint"),
        "starts from": "a fresh adapter" if info.get("start") == "" else info.get("start"),
        "data fingerprint": info.get("data_fingerprint"),
        "questions fingerprint": info.get("questions_fingerprint"),
        "constitution hash": part(info, "constitution").get("hash", "no constitution"),
        "aggregation": part(settings, "aggregation").get("algorithm"),
        "clients per round": sampled,
        "attack": attack and attack.text,
        "noise for privacy": _noise(part(settings, "privacy")),
        "defence": _defence(part(settings, "defence").get("method")),
        "machine": info.get("machine"),
        "device": info.get("device"),
        "number format": info.get("dtype"),
        **{f"version of {name}": version for name, version in part(info, "versions").items()},
    }
    return {name: str(value) for name, value in described.items() if value not in (None, "")}
