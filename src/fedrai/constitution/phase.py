"""One round's alignment on the server: decide, revise, answer, train, probe.

    probe -> schedule -> revisions, harmless answers -> rows and pairs -> training -> probe

Whatever is done is kept in the work folder, and a call with the same adapter and folder goes on
from there to the same bits and the same report, whose costs are those of the work that counts: what
an interruption made in vain is not in them. Does not load models, requests or guards; see
`runtimes/aligning.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from fedrai.constitution import material
from fedrai.constitution.accounting import (
    account,
    composed,
    counted,
    full_operations,
    total,
    without_time,
)
from fedrai.constitution.anchoring import anchored_to
from fedrai.constitution.harmless import HarmlessAnswer, answer
from fedrai.constitution.material import Material, Spending
from fedrai.constitution.mixture import Mixture, mixture, revision_pairs
from fedrai.constitution.outcome import Aligned
from fedrai.constitution.plan import PhaseTools, Plan, probe_requests, requests_for
from fedrai.constitution.probe import ProbeResult, ProbeRows, build_probe, measure
from fedrai.constitution.records import TRAINED, Outcome, Request, RevisionRecord
from fedrai.constitution.revising import revise
from fedrai.constitution.schedule import decide
from fedrai.constitution.storing import read_records, write_records
from fedrai.constitution.training import Run, TrainingOutcome, train, untrained
from fedrai.errors import ConstitutionError, DataError
from fedrai.model import AdapterState
from fedrai.runs.costs import Cost, reset_peak
from fedrai.training.likelihood import pair_fit


class Phase:
    """Aligns the aggregated adapter of a round, when its schedule says so."""

    def __init__(self, plan: Plan, tools: PhaseTools) -> None:
        self.plan, self.tools = plan, tools
        self._asked = probe_requests(plan, tools)
        self._anchored: ProbeRows | None = None
        self._looks: dict[int, ProbeResult] = {}  # of the training at hand, by step

    def __call__(
        self, number: int, adapter: AdapterState, work: Path, kept: Path, last: bool
    ) -> Aligned:
        """Align one round's adapter, or leave it as it is.

        Args:
            number: of the round.
            adapter: the aggregated one; the reference of the training.
            work: folder for what an interruption must not lose.
            kept: folder where rounds leave their revisions for later ones.
            last: whether it is the last round.

        Raises:
            ConstitutionError: no revision passed, or the critic cannot answer.
            GuardError, DataError, ModelError, RunError: see `revise`, `mixture` and `align`.
        """
        reset_peak()
        plan, tools = self.plan, self.tools
        spending, before = Spending(work), material.last_before(kept, number)
        now, adaptive = None, plan.schedule == "adaptive"
        watched = adaptive and plan.bounds.watches
        first = number == 1 if watched else before is None  # that is probed
        if watched or (adaptive and last):
            now = self._probe(adapter, spending, "before", first).to_json()
        decision = decide(
            plan.schedule,
            number,
            last=last,
            every=plan.every,
            bounds=plan.bounds,
            now=now,
            before=before.probe if before else None,
        )
        if not decision.run:
            report = {"ran": False, "why": decision.why, "probe_before": without_time(now)}
            return Aligned(adapter, report, total(spending, {"probe"}))
        tools.tell("constitution-started", round=number, why=decision.why)
        aggregated, adapter = adapter, anchored_to(tools.start, adapter, plan.anchor)
        with tools.model.using(adapter):
            found, reused = self._material(number, work, before, spending)
        now = now or self._probe(aggregated, spending, "before", first).to_json()
        mixed, pairs, left_out = self._mixed(number, found)
        trained = self._train(number, adapter, work, mixed, pairs, spending)
        after = self._after(trained, spending).to_json()
        material.keep(kept, number, work, found, without_time(after) or {})
        report = {
            "ran": True,
            "why": decision.why,
            "anchor": plan.anchor,
            "steps": trained.steps,
            "adapter_step": trained.adapter_step,
            "stopped": trained.stopped,
            "trace": list(trained.trace),
            "loss_first": trained.loss_first,
            "loss_last": trained.loss_last,
            "probe_before": without_time(now),
            "probe_after": without_time(after),
            **account(found, reused),
            "examples": len(tools.examples),
            **composed(mixed, left_out),
            "overlap_removed": dict(tools.gathered.removed),
            "spent": {name: counted(cost) for name, cost in spending.parts.items()},
            "full_operations": full_operations(plan, tools, found, mixed, trained),
        }
        return Aligned(trained.adapter, report, total(spending))

    # --- the probe --------------------------------------------------------------------------------

    def _texts(self, spending: Spending | None) -> ProbeRows:
        """The probe, the same in every round; its texts are generated once a process.

        Args:
            spending: of the first round that is probed, where they count; None in others, which
                generate them in a process that was interrupted and goes on.
        """
        if self._anchored is None:
            harmful, harmless = self._asked
            put = spending.part("probe", "texts") if spending else None
            self._anchored, tokens, operations = build_probe(
                self.tools.model,
                harmful,
                harmless,
                start=self.tools.start,
                batch_size=self.tools.settings.batch_size,
                max_length=self.plan.max_length,
                on_batch=self._progress("probe"),
            )
            if put:
                put(tokens, operations)
        return self._anchored

    def _probe(
        self, adapter: AdapterState, spending: Spending, when: str, first: bool = False
    ) -> ProbeResult:
        """Probe the model with an adapter."""
        self.tools.tell("constitution-progress", phase="probe", done=0, of=1)
        probe = self._texts(spending if first else None)
        put = spending.part("probe", when)
        with self.tools.model.using(adapter):
            probed = measure(self.tools.model, probe, self.plan.micro_batch_tokens)
        put(probed.tokens, probed.operations)
        self.tools.tell("constitution-progress", phase="probe", done=1, of=1)
        return probed

    def _after(self, trained: TrainingOutcome, spending: Spending) -> ProbeResult:
        """What the probe says of the adapter that is handed on; looked at once only."""
        step = trained.adapter_step
        if found := self._looks.get(step):
            return found
        seen = any(look["step"] == step for look in trained.trace)  # before an interruption
        return self._probe(trained.adapter, spending, _at(step) if seen else "after")

    # --- revisions and harmless answers -----------------------------------------------------------

    def _material(
        self, number: int, work: Path, before: Material | None, spending: Spending
    ) -> tuple[Material, bool]:
        """New material, or that of an earlier round where it still fits the model."""
        if before is not None and self._fits(before, spending):
            return before, True
        harmful, harmless = self._requests(number)
        records = self._records(number, harmful, work, spending)
        if records and not any(r.outcome in TRAINED for r in (*records, *self.tools.examples)):
            counts = {o.value: sum(r.outcome is o for r in records) for o in Outcome}
            told = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
            raise ConstitutionError(
                f"none of {len(records)} revisions passed ({told})",
                hint="more tries or demonstrations, another critic or another guard threshold",
            )
        answers = self._answers(number, harmless, work, spending)
        names = {"revisions", "harmless"}
        made = {name: cost for name, cost in spending.parts.items() if name in names}
        return Material(records, answers, made), False

    def _fits(self, before: Material, spending: Spending) -> bool:
        """Whether first answers of before are still about what the model says.

        Where none gave way there is nothing to tell by: then they do unless pairs are wanted.
        """
        plan, tools = self.plan, self.tools
        if plan.schedule == "full":
            return False
        if not plan.reuse:
            return True
        pairs = revision_pairs(tools.model.chat, before.records, plan.max_length)
        put = spending.part("fit", "all")
        fit = pair_fit(tools.model, pairs, batch_tokens=plan.micro_batch_tokens)
        put(fit.tokens, fit.operations)
        if fit.share is None:
            return not (plan.pairs and tools.pool)
        return fit.share >= plan.reuse

    def _requests(self, number: int) -> tuple[Sequence[Request], Sequence[Request]]:
        tools = self.tools
        return requests_for(self.plan, number, tools.pool, tools.gathered.harmless)

    def _records(
        self, number: int, requests: Sequence[Request], work: Path, spending: Spending
    ) -> tuple[RevisionRecord, ...]:
        tools, file = self.tools, work / material.RECORDS
        done = read_records(file)

        def put(fresh: Sequence[RevisionRecord]) -> None:
            write_records(file, fresh, after=len(done))
            material.seal(file)
            done.extend(fresh)

        whole = len(done) - (len(done) % tools.settings.batch_size if len(done) < len(requests)
                             else 0)  # fmt: skip
        del done[whole:]
        return revise(
            requests,
            constitution=tools.constitution,
            model=tools.model,
            critic=tools.critic,
            checks=tools.checks,
            settings=tools.settings,
            seed=self.plan.seed("constitution-revisions", number),
            kept=tuple(done),
            on_records=put,
            on_progress=self._progress("revisions"),
            on_cost=spending.part("revisions"),
        ).records

    def _answers(
        self, number: int, requests: Sequence[Request], work: Path, spending: Spending
    ) -> tuple[HarmlessAnswer, ...]:
        tools, file = self.tools, work / material.HARMLESS
        done = material.read_answers(file)

        def put(fresh: Sequence[HarmlessAnswer]) -> None:
            done.extend(fresh)
            material.write_answers(file, done)
            material.seal(file)

        return answer(
            requests,
            model=tools.model,
            guard=tools.checks.guard,
            threshold=tools.harmless_threshold,
            reference_share=self.plan.reference_share,
            base_only=self.plan.base_answers,
            seed=self.plan.seed("constitution-harmless", number),
            batch_size=tools.settings.batch_size,
            max_new_tokens=tools.settings.max_new_tokens,
            kept=tuple(done),
            on_answers=put,
            on_progress=self._progress("harmless"),
            on_cost=spending.part("harmless"),
        ).answers

    def _progress(self, phase: str) -> Callable[[int, int], None]:
        def tell(done: int, of: int) -> None:
            self.tools.tell("constitution-progress", phase=phase, done=done, of=of)

        return tell

    # --- training ---------------------------------------------------------------------------------

    def _mixed(self, number: int, found: Material) -> tuple[Mixture, int, list[str]]:
        """Rows and pairs, pairs of a step, and the kinds of pairs that are wanted but missing.

        A kind that is missing is not made up for by the other, which would teach one side only: the
        steps then have that many pairs less.
        """
        plan, share = self.plan, self.plan.harmless_pairs
        if plan.schedule != "full" and not plan.steps:
            return Mixture((), (), {}, {}), 0, []
        wanted = {"harmful-pairs": 1 - share, "harmless-pairs": share} if plan.pairs else {}
        kinds = [name for name, part in wanted.items() if part]
        missing = [name for name in kinds if not self._has(number, found, name)]
        left = [name for name in kinds if name not in missing]
        each = plan.pairs if left else 0
        if missing and left:
            each = max(1, round(plan.pairs * wanted[left[0]]))
            share = float(left == ["harmless-pairs"])
        times = 0 if plan.schedule == "full" else plan.steps  # 0: once through
        rows, pairs = (n and max(1, n * times) for n in (plan.rows, each))
        return self._mixture(number, found, share, rows, pairs), each, missing

    def _has(self, number: int, found: Material, kind: str) -> bool:
        """Whether there is a pair of a kind."""
        try:
            self._mixture(number, found, float(kind == "harmless-pairs"), 0, 1)
        except DataError:
            return False
        return True

    def _mixture(
        self, number: int, found: Material, harmless_pairs: float, rows: int, pairs: int
    ) -> Mixture:
        plan = self.plan
        return mixture(
            self.tools.model.chat,
            (*self.tools.examples, *found.records),
            found.harmless,
            refusals=plan.refusals,
            look_alikes=plan.look_alikes,
            harmless_pairs=harmless_pairs,
            rows=rows,
            pairs=pairs,
            max_length=plan.max_length,
            seed=plan.seed("constitution-mixture", number),
        )

    def _train(
        self,
        number: int,
        adapter: AdapterState,
        work: Path,
        mixed: Mixture,
        pairs: int,
        spending: Spending,
    ) -> TrainingOutcome:
        plan, tools = self.plan, self.tools
        stops = plan.schedule == "adaptive" or (plan.early_stop and plan.schedule != "full")
        every = plan.probe_every if stops else 0
        pairs = pairs if mixed.pairs else 0
        goal = plan.objective
        if not pairs and not (mixed.rows and (goal.sft or goal.kl)):
            why = "nothing to train on" if plan.steps else "the mean of weights alone"
            return untrained(adapter, why)
        steps = _epoch(mixed, plan, pairs) if plan.schedule == "full" else plan.steps

        self._looks.clear()

        def look(step: int) -> ProbeResult:
            self._looks[step] = self._probe(tools.model.adapter(), spending, _at(step))
            return self._looks[step]

        trained = train(
            tools.model,
            adapter,
            mixed.rows,
            mixed.pairs,
            Run(
                objective=goal,
                steps=steps,
                rows=plan.rows,
                pairs=pairs,
                learning_rate=plan.learning_rate,
                warmup_steps=plan.warmup_steps,
                cooldown_steps=plan.cooldown_steps,
                weight_decay=plan.weight_decay,
                clip_norm=plan.clip_norm,
                micro_batch_tokens=plan.micro_batch_tokens,
                seed=plan.seed("constitution-training", number) % 2**62,
                every=every,
                bounds=plan.bounds,
            ),
            work,
            look=look if every else None,
            tell=self._progress("training"),
        )
        cost = Cost(trained.seconds, trained.tokens, trained.operations)
        spending.put("training", cost)  # its own account spans interruptions
        return trained


def _at(step: int) -> str:
    """The name of the look after so many steps."""
    return f"step {step:06}"


def _epoch(mixed: Mixture, plan: Plan, pairs: int) -> int:
    """Steps that go once through the rows, or the pairs if there are only those."""
    by_rows = math.ceil(len(mixed.rows) / plan.rows) if plan.rows else 0
    return by_rows or math.ceil(len(mixed.pairs) / pairs)
