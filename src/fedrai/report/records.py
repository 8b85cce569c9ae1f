"""What a report shows of runs: frozen records; None stands for "not recorded"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrai.rates import Rate
from fedrai.report.figures import Point
from fedrai.runs.costs import Cost


@dataclass(frozen=True, slots=True)
class Score:
    """A figure that is no rate of answers, such as HHH's accuracy or MT-Bench's mean.

    Attributes:
        value: in its own unit.
        low: lower end of its interval.
        high: upper end.
        count: what it is the mean of.
        unscored: what is in none of these.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    unscored: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation.

    Attributes:
        number: the round after which it was made; 0: before the first.
        rates: by name ("safe", "safe-legacy", "refused" ...).
        loss: on held-out answers, in nats per token.
        scores: by name ("hhh", "mt-bench" ...), those that were measured.
        unavailable: why a suite could not be had, by its name.
    """

    number: int
    rates: Mapping[str, Rate]
    loss: float | None
    scores: Mapping[str, Score] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a constitution's probe found: openings that are likelier than their counterparts."""

    safe: Rate
    useful: Rate


@dataclass(frozen=True, slots=True)
class Alignment:
    """What the constitution did in one round.

    Attributes:
        ran: whether the schedule had it run.
        why: the schedule's reason.
        steps: optimiser steps.
        stopped: why training ended.
        requests: red-team requests whose answers were to be revised.
        kept: revisions that passed all checks.
        reused: whether the revisions are those of an earlier round.
        outcomes: how many requests ended how.
        before: the probe before.
        after: the probe after.
        trace: looks of the probe during training: (step, safe, useful), shares from 0 to 1.
    """

    ran: bool
    why: str
    steps: int | None
    stopped: str
    requests: int | None
    kept: int | None
    reused: bool | None
    outcomes: Mapping[str, int]
    before: Probe | None
    after: Probe | None
    trace: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One committed round.

    Attributes:
        number: from 1.
        loss_first: of clients' first steps, their weighted mean, in nats per token.
        loss_last: of their last steps.
        norms: of the clients' updates, by name.
        aside: why clients were set aside, by name.
        alignment: what the constitution did.
    """

    number: int
    loss_first: float | None
    loss_last: float | None
    norms: Mapping[str, float]
    aside: Mapping[str, str]
    alignment: Alignment | None


@dataclass(frozen=True, slots=True)
class Removed:
    """Counts of a filter's ledger.

    Attributes:
        rows: that it judged.
        unsafe: found unsafe; `categories` adds up to it where the guard names one for each.
        dropped: left out of training.
        replaced: given a refusal for an answer.
        unscored: without a verdict.
        categories: unsafe rows by hazard.
    """

    rows: int
    unsafe: int
    dropped: int
    replaced: int
    unscored: int
    categories: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Screening:
    """What the safety filter did.

    Attributes:
        mode: "off", "drop", "replace" ...
        guard: which.
        threshold: at which a row counts as unsafe.
        skipped: why there was none though the recipe asks for it; empty: there was.
        total: over all clients.
        clients: by name.
        reported: whether the counts are those that clients sent, perhaps with noise.
        confusion: harmful and benign rows in and out, where the data says which are which.
    """

    mode: str
    guard: str | None
    threshold: float | None
    skipped: str
    total: Removed | None
    clients: Mapping[str, Removed]
    reported: bool
    confusion: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Constitution:
    """What a run says of its constitution.

    Attributes:
        schedule: when it runs.
        hash: of its text and settings.
        saving: share of the full schedule's operations that was saved; an estimate.
    """

    schedule: str
    hash: str
    saving: float | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """An answer to one of the server's own red-team requests.

    Attributes:
        suite: where the request comes from.
        number: its place there.
        prompt: the request, cut to what is shown.
        answer: cut to what is shown.
        length: of the whole answer, in characters.
        reply: the refusal judge's word.
    """

    suite: str
    number: int
    prompt: str
    answer: str
    length: int
    reply: str


@dataclass(frozen=True, slots=True)
class ArmPoint:
    """An arm's figures, means over its seeds.

    Attributes:
        label: what it is called.
        value: of the axis; empty without one.
        figures: by measure, with the ends of their intervals.
        arm: its name; empty for what training starts from.
    """

    label: str
    value: str
    figures: Mapping[str, Point]
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """What `fedrai compare` wrote beside its runs.

    Attributes:
        axis: key that it goes along; empty: none.
        against: arm that others are held against.
        points: what runs start from, and the arms.
        columns: headings of the table of arms.
        rows: of that table.
        gap_columns: headings of the table of differences.
        gap_rows: of that table.
        notes: what a reader must know.
    """

    axis: str
    against: str
    points: tuple[ArmPoint, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    gap_columns: tuple[str, ...]
    gap_rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        label: what the report calls it; no two are the same.
        arm: name of its folder, which is that of its arm.
        mode: "federated", "centralised" or "local".
        share: part of its clients' rows that is harmful, as the recipe asks for.
        finished: whether it went to its end.
        plain: whether it is federated averaging with neither filter nor constitution.
        model: name of the base model.
        start: adapter that training starts from; empty: a fresh one.
        seed: of the recipe.
        rows: rows of all clients that were trained on.
        harmful_rows: those of them from a harmful source.
        bad_rows: rows that could not be used.
        clients: how many.
        planned: rounds that the recipe asks for.
        evaluations: by round.
        rounds: those that were committed.
        screening: what the filter did.
        constitution: None where the recipe has none.
        costs: by phase.
        provenance: what the result comes from: hashes, versions, machine.
        transcripts: those that were asked for.
        transcript_round: the evaluation they are from.
        unreadable: lines of answers that could not be read.
    """

    label: str
    arm: str
    mode: str
    share: float | None
    finished: bool
    plain: bool
    model: str
    start: str
    seed: int | None
    rows: int | None
    harmful_rows: int | None
    bad_rows: int | None
    clients: int | None
    planned: int | None
    evaluations: tuple[Evaluated, ...]
    rounds: tuple[Round, ...]
    screening: Screening
    constitution: Constitution | None
    costs: Mapping[str, Cost]
    provenance: Mapping[str, str]
    transcripts: tuple[Transcript, ...] = ()
    transcript_round: int = 0
    unreadable: int = 0

    @property
    def work(self) -> Cost:
        """What the run took without its evaluations."""
        parts = (cost for phase, cost in self.costs.items() if phase != "evaluation")
        return sum(parts, Cost())

    @property
    def before(self) -> Evaluated | None:
        """The evaluation of what the run started from."""
        return next((e for e in self.evaluations if e.number == 0), None)

    @property
    def after(self) -> Evaluated | None:
        """The last evaluation after a round."""
        return next((e for e in reversed(self.evaluations) if e.number > 0), None)
