"""`summary.json`: the key figures of a run, derived from its record alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedrai.errors import RunError
from fedrai.runs.costs import Cost
from fedrai.runs.folder import RunFolder
from fedrai.runs.record.run import RunRecord, client_reports, read
from fedrai.runs.record.values import Json, part, word
from fedrai.runs.schema import SCHEMA, check_schema

SUMMARY = "summary.json"
CLIENT_COSTS = ("seconds", "tokens", "operations", "peak-bytes")
"""Costs that clients report; bytes are counted by the server."""
UNREPORTED = "unreported_costs"  # the file has it as `untold_costs`
TOTALS = ("rows", "unsafe", "dropped", "replaced")
BASE_PHASES = ("filter", "training", "aggregation", "defence")  # all but alignments and evaluations


@dataclass(frozen=True, slots=True)
class FilterSummary:
    """The results of the safety filter.

    Attributes:
        mode: "audit", "drop" or "replace".
        total: the ledger of all clients together; None if no node reports its own.
        skipped: why it did not run though the recipe asks for it; empty: it ran.
    """

    mode: str
    total: Json | None
    skipped: str

    @classmethod
    def of(cls, run: RunRecord) -> FilterSummary | None:
        """The filter of a run; None where it had none."""
        mode, ledger = run.screening.mode, run.screening.ledger
        if reports := client_reports(run.engine, run.rounds):
            return None if mode == "off" else cls(mode, _reported_total(reports), "")
        if ledger is None:
            return None
        return cls(mode, part(ledger, "total") or None, word(ledger, "skipped"))


@dataclass(frozen=True, slots=True)
class AlignmentSummary:
    """The alignments of a run together; fields without a comment are those of `ConstitutionRecord`.

    Attributes:
        tokens: that went through the model, without padding.
        operations: floating-point operations, probes included.
        seconds: wall time.
        extra: operations as a share of those of filter, training, aggregation and defences (an
            estimate); None if a client does not report its own.
    """

    schedule: str
    hash: str
    alignments: int
    steps: int
    tokens: int = 0
    operations: float = 0.0
    seconds: float = 0.0
    extra: float | None = None
    full_operations: float | None = None
    saving: float | None = None

    @classmethod
    def of(cls, run: RunRecord, *, operations_known: bool) -> AlignmentSummary | None:
        """The alignments of a run; None where its recipe has no constitution."""
        if run.constitution is None:
            return None
        cost = run.costs.get("constitution", Cost())
        base = sum(c.operations for phase, c in run.costs.items() if phase in BASE_PHASES)
        extra = cost.operations / base if base and operations_known else None
        return cls(
            **asdict(run.constitution),
            tokens=cost.tokens,
            operations=cost.operations,
            seconds=cost.seconds,
            extra=extra,
        )


@dataclass(frozen=True, slots=True)
class SetAside:
    """An update that was not aggregated."""

    round: int
    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoundLoss:
    """The mean loss of clients' last steps in a round, in nats per token."""

    round: int
    last: float | None


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The rows of one source on all clients.

    Attributes:
        held: rows that clients hold.
        fewest: of one client.
        most: of one client.
        trained: rows that the filter leaves, with those whose answer it replaced.
    """

    held: int
    fewest: int
    most: int
    trained: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The key figures of a run; fields without a comment are those of `RunRecord`.

    Attributes:
        status: "finished" or "unfinished".
        rounds: committed rounds.
        rows: rows of all clients that were trained on.
        sources: rows by source; empty on a deployment, and in runs of earlier versions.
        filter: None if the run has no filter.
        constitution: None if the recipe has none.
        evaluations: figures by round, without costs; 0: before the first.
        training_loss: training loss by round.
        set_aside: updates that were not aggregated, with the reason.
        shared_rounds: rounds that another run of the comparison trained, by that run; their costs
            are among those of this one.
        unreported_costs: costs that some client does not report; sums are without them.
        attack: what malicious clients of an experiment do, and who they are; empty: there are none.
        privacy: differential privacy of the clients after the last round; empty: there is none.
        epsilon: its epsilon; None: there is none.
        delta: its delta.
    """

    name: str
    status: str
    rounds: int
    clients: int
    rows: int
    recipe_hash: str = ""
    start: str = ""
    harmful_rows: int | None = None
    bad_rows: int | None = None
    bad_rows_unreported: int = 0
    bad_row_problems: Mapping[str, int] = field(default_factory=dict)
    unread_columns: Mapping[str, int] = field(default_factory=dict)
    held_out_bad_rows: int = 0
    sources: Mapping[str, SourceRows] = field(default_factory=dict)
    filter: FilterSummary | None = None
    constitution: AlignmentSummary | None = None
    evaluations: Mapping[int, Json] = field(default_factory=dict)
    training_loss: tuple[RoundLoss, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    shared_rounds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unreported_costs: tuple[str, ...] = ()
    attack: str = ""
    privacy: str = ""
    epsilon: float | None = None
    delta: float | None = None

    @classmethod
    def of(cls, run: RunRecord) -> Summary:
        """The summary of a run."""
        reports, unreported = client_reports(run.engine, run.rounds), _unreported_costs(run)
        sizes = {name: int(numbers.get("num-examples", 0)) for name, numbers in reports.items()}
        rows = run.client_rows or sizes
        return cls(
            name=run.name,
            recipe_hash=run.recipe_hash,
            status="finished" if run.finished else "unfinished",
            start=run.start,
            rounds=len(run.rounds),
            clients=len(rows),
            rows=sum(rows.values()),
            harmful_rows=run.harmful_rows,
            bad_rows=run.bad_rows,
            bad_rows_unreported=run.bad_rows_unreported,
            bad_row_problems=dict(run.bad_row_problems),
            unread_columns=dict(run.unread_columns),
            held_out_bad_rows=run.held_out_bad_rows,
            sources=_by_source(run),
            filter=FilterSummary.of(run),
            constitution=AlignmentSummary.of(run, operations_known="operations" not in unreported),
            evaluations={one.number: one.figures for one in run.evaluations},
            training_loss=tuple(RoundLoss(one.number, one.loss_last) for one in run.rounds),
            set_aside=tuple(
                SetAside(one.number, client, reason)
                for one in run.rounds
                for client, reason in one.set_aside.items()
            ),
            costs=run.costs,
            shared_rounds=run.shared_rounds,
            unreported_costs=unreported,
            attack=run.attack.text if run.attack else "",
            privacy=run.privacy.text if run.privacy else "",
            epsilon=run.privacy.epsilon if run.privacy else None,
            delta=run.privacy.delta if run.privacy else None,
        )

    def to_json(self) -> dict[str, Any]:
        """What `summary.json` holds."""
        body = {"schema": SCHEMA, **asdict(self)}
        return {"untold_costs" if k == UNREPORTED else k: value for k, value in body.items()}

    @classmethod
    def from_json(cls, path: Path, body: object) -> Summary:
        """A summary that this version or an earlier one wrote.

        Args:
            path: the run folder, for errors.
            body: what `summary.json` holds.

        Raises:
            RunError: it is no summary, or a later version wrote it.
        """
        from pydantic import TypeAdapter, ValidationError

        values = check_schema(path / SUMMARY, body)
        values = {**values, UNREPORTED: values.get("untold_costs", ())}
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunError(f"{path / SUMMARY} cannot be read (at {place})") from error


def _by_source(run: RunRecord) -> dict[str, SourceRows]:
    """Rows by source, in the order of the recipe."""
    names = dict.fromkeys(name for held in run.held_rows.values() for name in held)
    held = {name: [own.get(name, 0) for own in run.held_rows.values()] for name in names}
    trained = {n: sum(own.get(n, 0) for own in run.trained_rows.values()) for n in names}
    return {n: SourceRows(sum(c), min(c), max(c), trained[n]) for n, c in held.items()}


def summarise(folder: RunFolder) -> Summary:
    """The summary of a run, from the other files of its folder.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    return Summary.of(read(folder))


def write_summary(folder: RunFolder) -> None:
    """Write `summary.json` anew.

    Raises:
        RunError: a file of the run is missing or damaged, or the folder cannot be written.
    """
    folder.write_json(SUMMARY, summarise(folder).to_json())


def _unreported_costs(run: RunRecord) -> tuple[str, ...]:
    reports = [numbers for one in run.rounds for numbers in one.clients.values()]
    return tuple(n for n in CLIENT_COSTS if any(n not in numbers for numbers in reports))


def _reported_total(reports: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """The sum of the nodes' ledgers, as far as they report them; None if none does."""
    counts: Counter[str] = Counter()
    required = {f"filter-{name}" for name in TOTALS}
    for numbers in reports.values():
        if required <= numbers.keys():
            counts.update({k: int(n) for k, n in numbers.items() if k.startswith("filter-")})

    def below(prefix: str) -> dict[str, int]:
        return {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}

    total: dict[str, Any] = {name: counts[f"filter-{name}"] for name in TOTALS}
    total |= {"unscored": below("filter-unscored-"), "categories": below("filter-category-")}
    return {**total, "guard": "", "confusion": None} if counts else None
