"""One round's alignment on the server: decide, revise, answer, train, probe.

    probe -> schedule -> mining -> revisions, harmless answers -> rows and pairs -> training
          -> probe

Every result is stored in the work folder. A call with the same adapter and folder resumes there, to
the same bits and the same report; its costs are those of the work that the result is made of, not
of work that an interruption wasted. Does not load models, requests or guards; see
`federation.run.aligning`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrai.constitution.accounting import (
    cost_figures,
    full_operations,
    material_counts,
    mixture_counts,
    total,
    without_time,
)
from fedrai.constitution.anchoring import average_with_start
from fedrai.constitution.harmless import Answerer, HarmlessAnswer
from fedrai.constitution.material import (
    HARMLESS,
    MINED,
    RECORDS,
    Material,
    last_before,
    store,
    write_sealed,
)
from fedrai.constitution.mining import MinedAnswer, Miner, taken_requests
from fedrai.constitution.mixture import Mixer, Mixture, MixtureSizes, revision_pairs
from fedrai.constitution.outcome import Aligned
from fedrai.constitution.probe import (
    ProbeResult,
    ProbeRows,
    ProbeSettings,
    build_probe,
    measure,
)
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.constitution.revising import Reviser
from fedrai.constitution.schedule import decide, watches
from fedrai.constitution.spending import CostMeter, Spending
from fedrai.constitution.storing import Storable, read_records
from fedrai.constitution.tools import (
    PhaseTools,
    mining_pools,
    probe_requests,
    round_requests,
)
from fedrai.constitution.training import Training, TrainingOutcome, untrained
from fedrai.errors import ConstitutionError, DataError
from fedrai.model import AdapterState
from fedrai.recipe.sections import Recipe
from fedrai.runs.costs import Cost, reset_peak
from fedrai.training.likelihood import pair_fit


@dataclass(slots=True)
class _Round:
    """One round's alignment under way.

    Attributes:
        number: round number, from 1.
        folder: the work folder.
        spending: costs so far.
        earlier_material: material of an earlier round; None if there is none.
        is_first_probe: whether this is the first round with a probe.
        probe_results: results of the probe, by training step.
    """

    number: int
    folder: Path
    spending: Spending
    earlier_material: Material | None
    is_first_probe: bool
    probe_results: dict[int, ProbeResult] = field(default_factory=dict)


class Phase:
    """Aligns the aggregated adapter of a round, when its schedule says so.

    Args:
        recipe: the run's recipe; its `[constitution]` says how to align.
        tools: model, critic, guard and requests.
    """

    def __init__(self, recipe: Recipe, tools: PhaseTools) -> None:
        self.recipe, self.section, self.tools = recipe, recipe.constitution, tools
        self._probe_requests = probe_requests(recipe, tools)
        self._probe_rows: ProbeRows | None = None

    def __call__(
        self, number: int, adapter: AdapterState, folder: Path, archive: Path, last: bool
    ) -> Aligned:
        """Align one round's adapter, or leave it as it is.

        Args:
            number: round number, from 1.
            adapter: the aggregated one; the reference of the training.
            folder: work folder for results that an interruption must not lose.
            archive: folder where rounds store their revisions for later ones.
            last: whether it is the last round.

        Raises:
            ConstitutionError: no revision passed, or the critic cannot answer.
            GuardError, DataError, ModelError, RunError: see `Reviser`, `Mixer` and `Training`.
        """
        reset_peak()
        section, earlier = self.section, last_before(archive, number)
        adaptive = section.schedule == "adaptive"
        watched = adaptive and watches(section.probe)
        is_first_probe = number == 1 if watched else earlier is None
        round_ = _Round(number, folder, Spending(folder), earlier, is_first_probe)
        shares = None
        if watched or (adaptive and last):
            shares = self._probe(round_, adapter, "before").to_json()
        then = earlier.probe if earlier else None
        decision = decide(section, number, last=last, now=shares, before=then)
        if not decision.run:
            report = {"ran": False, "why": decision.why, "probe_before": without_time(shares)}
            return Aligned(adapter, report, total(round_.spending, {"probe"}))
        self.tools.on_event("constitution-started", round=number, why=decision.why)
        outcome, report = self._align(round_, adapter, archive, shares)
        report = {"ran": True, "why": decision.why, "anchor": section.anchor, **report}
        return Aligned(outcome.adapter, report, total(round_.spending))

    def _align(
        self, round_: _Round, aggregated: AdapterState, archive: Path, shares: dict[str, Any] | None
    ) -> tuple[TrainingOutcome, dict[str, Any]]:
        """Align; `shares` are those of the probe of the aggregated adapter, if it was measured."""
        adapter = average_with_start(self.tools.start, aggregated, self.section.anchor)
        self.tools.model.load_adapter(adapter)
        material = self._reusable(round_) or self._new_material(round_)
        shares = shares or self._probe(round_, aggregated, "before").to_json()
        mixture, pairs, missing = self._mixture(round_.number, material)
        outcome = self._train(round_, adapter, mixture, pairs)
        after = self._probe_after(round_, outcome).to_json()
        store(archive, round_.number, material, without_time(after) or {})
        return outcome, {
            **outcome.figures(),
            "probe_before": without_time(shares),
            "probe_after": without_time(after),
            "reused": material is round_.earlier_material,
            **material_counts(material),
            "examples": len(self.tools.examples),
            **mixture_counts(mixture, missing),
            "overlap_removed": dict(self.tools.requests.removed),
            "spent": {name: cost_figures(cost) for name, cost in round_.spending.parts.items()},
            "full_operations": full_operations(
                self.section, self.tools, material, mixture, outcome
            ),
        }

    def _on_progress(self, phase: str) -> Callable[[int, int], None]:
        def on_progress(done: int, of: int) -> None:
            self.tools.on_event("constitution-progress", phase=phase, done=done, of=of)

        return on_progress

    # --- the probe --------------------------------------------------------------------------------

    def _probe(self, round_: _Round, adapter: AdapterState, step: str) -> ProbeResult:
        """Probe the model with an adapter; the step names the measurement."""
        rows = self._rows(round_)
        on_progress = self._on_progress("probe")
        on_progress(0, len(rows.rows))
        meter = round_.spending.meter("probe", step)
        with self.tools.model.using(adapter):
            result = measure(
                self.tools.model, rows, self.section.micro_batch_tokens, on_batch=on_progress
            )
        meter.add(result)
        meter.save()
        return result

    def _rows(self, round_: _Round) -> ProbeRows:
        """The rows of the probe, the same in every round.

        Their texts are generated once in a process. They count in the first round with a probe, not
        in a later one that a new process resumes.
        """
        if self._probe_rows is None:
            meter = (
                round_.spending.meter("probe", "texts") if round_.is_first_probe else CostMeter()
            )
            settings = ProbeSettings(self.section.revising.batch_size, self.recipe.data.max_length)
            self._probe_rows = build_probe(
                self.tools.model,
                self._probe_requests,
                self.tools.start,
                settings,
                meter,
                self._on_progress("probe"),
            )
            meter.save()
        return self._probe_rows

    def _probe_after(self, round_: _Round, outcome: TrainingOutcome) -> ProbeResult:
        """The probe of the final adapter, measured once."""
        step = outcome.adapter_step
        if step in round_.probe_results:
            return round_.probe_results[step]
        measured = any(look["step"] == step for look in outcome.trace)  # before an interruption
        return self._probe(round_, outcome.adapter, _probe_name(step) if measured else "after")

    # --- revisions and harmless answers -----------------------------------------------------------

    def _reusable(self, round_: _Round) -> Material | None:
        """The material of an earlier round, if its first answers are still likely under the model.

        If no first answer complied there is nothing to compare: the material is reused unless pairs
        are needed. With mining it never is: another model fails other requests.
        """
        section, earlier = self.section, round_.earlier_material
        if earlier is None or section.schedule == "full" or section.mined_from:
            return None
        if not section.reuse:
            return earlier
        model, length = self.tools.model, self.recipe.data.max_length
        meter = round_.spending.meter("fit", "all")
        pairs = revision_pairs(model.chat, earlier.records, length)
        fit = pair_fit(model, pairs, batch_tokens=section.micro_batch_tokens)
        meter.add(fit)
        meter.save()
        if fit.share is None:
            return None if section.mix.pairs and self.tools.pool else earlier
        return earlier if fit.share >= section.reuse else None

    def _new_material(self, round_: _Round) -> Material:
        tools = self.tools
        (harmful, harmless), mining = self._requests(round_)
        records = self._revisions(round_, harmful)
        if records and not any(r.accepted for r in (*records, *tools.examples)):
            counts = {o.value: sum(r.outcome is o for r in records) for o in Outcome}
            outcomes = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
            raise ConstitutionError(
                f"none of {len(records)} revisions passed ({outcomes})",
                hint="use more tries or demonstrations, another critic or another guard threshold",
            )
        answers = self._answers(round_, harmless)
        names = {"mining", "revisions", "harmless"}
        spent = {name: cost for name, cost in round_.spending.parts.items() if name in names}
        return Material(records, answers, spent, mining=mining)

    def _requests(
        self, round_: _Round
    ) -> tuple[tuple[Sequence[Request], Sequence[Request]], dict[str, dict[str, int]]]:
        """The revised and harmless requests of a round, and the counts of mining by side."""
        recipe, tools = self.recipe, self.tools
        drawn = round_requests(recipe, round_.number, tools.pool, tools.requests.harmless)
        sizes = len(drawn[0]), len(drawn[1])
        harmful, harmless = mining_pools(recipe, round_.number, tools.requests, sizes)
        if not harmful and not harmless:
            return drawn, {}
        file, seed = round_.folder / MINED, recipe.seed_for("constitution-mining", round_.number)
        miner = Miner(
            tools.model,
            tools.checks.guard,
            self.section.revising.batch_size,
            round_.spending.meter("mining"),
            self._on_progress("brief answers"),
        )
        stored = read_records(file, MinedAnswer)
        answers = miner.ask((*harmful, *harmless), stored, _on_chunk(file, miner.meter))
        return taken_requests(answers, drawn, tools.checks.threshold, seed)

    def _revisions(self, round_: _Round, requests: Sequence[Request]) -> tuple[RevisionRecord, ...]:
        tools, file = self.tools, round_.folder / RECORDS
        reviser = Reviser(
            tools.constitution,
            tools.model,
            tools.critic,
            tools.checks,
            self.section.revising,
            self.recipe.seed_for("constitution-revisions", round_.number),
            round_.spending.meter("revisions"),
            self._on_progress("revisions"),
        )
        stored = read_records(file, RevisionRecord)
        return reviser.revise(requests, stored, _on_chunk(file, reviser.meter))

    def _answers(self, round_: _Round, requests: Sequence[Request]) -> tuple[HarmlessAnswer, ...]:
        tools, file = self.tools, round_.folder / HARMLESS
        answerer = Answerer(
            tools.model,
            tools.checks.guard,
            tools.harmless_threshold,
            self.section.revising,
            self.section.mix,
            self.recipe.seed_for("constitution-harmless", round_.number),
            round_.spending.meter("harmless"),
            self._on_progress("harmless"),
        )
        stored = read_records(file, HarmlessAnswer)
        return answerer.answer(requests, stored, _on_chunk(file, answerer.meter))

    # --- training ---------------------------------------------------------------------------------

    def _mixture(self, number: int, material: Material) -> tuple[Mixture, int, list[str]]:
        """Rows and pairs, pairs of a step, and the kinds of pairs that are missing.

        A missing kind is not replaced by the other, which would teach one side only: the steps then
        have fewer pairs.
        """
        section, share = self.section, self.section.harmless_pairs
        mix, full = section.mix, section.schedule == "full"
        if not full and not section.steps:
            return Mixture((), (), {}, {}), 0, []
        mixer = Mixer(
            self.tools.model.chat,
            material.records,
            material.harmless,
            mix,
            self.recipe.data.max_length,
            self.recipe.seed_for("constitution-mixture", number),
            self.tools.examples,
        )
        parts = {"harmful-pairs": 1 - share, "harmless-pairs": share} if mix.pairs else {}
        missing = [name for name, part in parts.items() if part and not _has(mixer, name)]
        rest = [name for name, part in parts.items() if part and name not in missing]
        pairs = mix.pairs if rest else 0
        if missing and rest:
            pairs = max(1, round(mix.pairs * parts[rest[0]]))
            share = float(rest == ["harmless-pairs"])
        times = 0 if full else section.steps  # 0: once through
        rows_least, pairs_least = (n and max(1, n * times) for n in (mix.rows, pairs))
        return mixer.compose(MixtureSizes(rows_least, pairs_least, share)), pairs, missing

    def _train(
        self, round_: _Round, adapter: AdapterState, mixture: Mixture, pairs: int
    ) -> TrainingOutcome:
        section, goal = self.section, self.section.objective
        pairs = pairs if mixture.pairs else 0
        if not pairs and not (mixture.rows and (goal.sft or goal.kl)):
            why = "nothing to train on" if section.steps else "the mean of weights alone"
            return untrained(adapter, why)
        changes: dict[str, Any] = {"mix": section.mix.model_copy(update={"pairs": pairs})}
        if section.schedule == "full":
            changes["steps"] = _epoch(mixture, section.mix.rows, pairs)

        def look(step: int) -> ProbeResult:
            model = self.tools.model
            round_.probe_results[step] = self._probe(round_, model.adapter(), _probe_name(step))
            return round_.probe_results[step]

        early = section.early_stop and section.schedule != "full"
        stops = (early or section.schedule == "adaptive") and section.probe.every
        training = Training(
            self.tools.model,
            section.model_copy(update=changes),
            self.recipe.seed_for("constitution-training", round_.number) % 2**62,
            round_.folder,
            look if stops else None,
            self._on_progress("training"),
        )
        outcome = training.run(adapter, mixture.rows, mixture.pairs)
        cost = Cost(outcome.seconds, outcome.tokens, outcome.operations)
        round_.spending.put("training", cost)  # its own account spans interruptions
        return outcome


def _on_chunk(file: Path, meter: CostMeter) -> Callable[[Sequence[Storable]], None]:
    """Store the records after each chunk, and then their cost."""

    def on_chunk(records: Sequence[Storable]) -> None:
        write_sealed(file, records)
        meter.save()

    return on_chunk


def _has(mixer: Mixer, kind: str) -> bool:
    """Whether there is a pair of a kind."""
    try:
        mixer.compose(MixtureSizes(0, 1, float(kind == "harmless-pairs")))
    except DataError:
        return False
    return True


def _probe_name(step: int) -> str:
    """Name of the probe after a number of training steps."""
    return f"step {step:06}"


def _epoch(mixture: Mixture, rows: int, pairs: int) -> int:
    """Steps that go once through the rows, or the pairs if there are only those."""
    by_rows = math.ceil(len(mixture.rows) / rows) if rows else 0
    return by_rows or math.ceil(len(mixture.pairs) / pairs)
