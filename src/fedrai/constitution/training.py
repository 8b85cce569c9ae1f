"""The training of one alignment: `prefer.align` with a state on disk and a two-sided early stop.

A model learns to refuse before it learns whom, and the latter while its steps become small. So the
probe does not end a training at once: from the first look that satisfies it on, the learning rate
falls to 0, and as it does over the last steps where none satisfies (a schedule of warm-up, stable
rate and decay, as in arXiv 2405.18392). The adapter that is handed on is that of the end if the
probe is satisfied there too, else the best one that was looked at: the one whose worse side lies
nearest to its target.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fedrai.constitution.probe import ProbeResult
from fedrai.constitution.schedule import Bounds
from fedrai.errors import ChecksumError, RunError
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.alignment import Goal
from fedrai.records import Tokens
from fedrai.runs.files import load_sealed, save_sealed, writing
from fedrai.training.prefer import AlignHooks, AlignSettings, AlignStep, PreferencePair, align
from fedrai.training.sft import learning_rates

STATE, BEST = "state.safetensors", "best.safetensors"
SAVE_EVERY = 10  # steps between two states where the probe does not look


@dataclass(frozen=True, slots=True)
class Run:
    """Settings of a training.

    Attributes:
        objective: what is made small.
        steps: at most.
        rows: of a step.
        pairs: of a step.
        learning_rate: peak; linear warm-up, then constant where the probe may end it, else cosine.
        warmup_steps: of the warm-up.
        cooldown_steps: in which the rate falls to 0 where the probe may end it; in whole intervals
            of `every`.
        weight_decay: AdamW's.
        clip_norm: largest norm of the gradient.
        micro_batch_tokens: that go through the model at once.
        seed: of the order.
        every: steps between two looks; 0: none.
        bounds: that end it.
    """

    objective: Goal
    steps: int
    rows: int
    pairs: int
    learning_rate: float
    warmup_steps: int
    cooldown_steps: int
    weight_decay: float
    clip_norm: float
    micro_batch_tokens: int
    seed: int
    every: int
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What came of it.

    Attributes:
        adapter: the one to hand on.
        steps: that were taken, also those after the adapter.
        adapter_step: steps that the adapter has behind it.
        stopped: why it ended.
        trace: what each look found: step, safe, useful, and the score they make.
        loss_first: of the first step; None without steps.
        loss_last: of the last step, likewise.
        tokens: that went through the model.
        operations: floating-point operations.
        seconds: wall time of the steps and of reading the reference.
    """

    adapter: AdapterState
    steps: int
    adapter_step: int
    stopped: str
    trace: Sequence[Mapping[str, float]]
    loss_first: float | None
    loss_last: float | None
    tokens: int = 0
    operations: float = 0.0
    seconds: float = 0.0


def untrained(start: AdapterState, why: str) -> TrainingOutcome:
    """What comes of no training at all: the adapter that there was."""
    return TrainingOutcome(start, 0, 0, why, (), None, None)


@dataclass(slots=True)
class _Watch:
    """The looks so far, and the best adapter among them."""

    folder: Path
    run: Run
    trace: list[dict[str, float]] = field(default_factory=list)

    @property
    def satisfied(self) -> bool:
        """Whether the last look satisfies the probe."""
        return bool(self.trace) and self._satisfies(self.trace[-1])

    @property
    def end(self) -> int:
        """Steps after which the training is over, as far as is known by now."""
        first = next((int(x["step"]) for x in self.trace if self._satisfies(x)), None)
        cooling = math.ceil(self.run.cooldown_steps / max(1, self.run.every)) * self.run.every
        return self.run.steps if first is None else min(self.run.steps, first + cooling)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        run = self.run
        rising = min(1.0, (step + 1) / (run.warmup_steps + 1))
        falling = min(1.0, (self.end - step) / run.cooldown_steps) if run.cooldown_steps else 1.0
        return run.learning_rate * min(rising, falling)

    def ends(self, step: int, look: Callable[[int], ProbeResult], model: LanguageModel) -> bool:
        """Whether to stop after so many steps; looks unless the rate is falling already."""
        if not any(self._satisfies(x) and x["step"] < step for x in self.trace):
            self.take(step, look(step), model.adapter())
        return step >= self.end

    def _satisfies(self, look: Mapping[str, float]) -> bool:
        return self.run.bounds.satisfied(look["safe"], look["useful"])

    def take(self, step: int, probed: ProbeResult, adapter: AdapterState) -> None:
        """Note a look, and keep the adapter if it is the best so far."""
        self.trace = [look for look in self.trace if look["step"] < step]  # asked again on resume
        score = self.run.bounds.score(probed.safe, probed.useful)
        best = max((look["score"] for look in self.trace), default=-1.0)
        self.trace.append({"step": step, "safe": probed.safe, "useful": probed.useful,
                           "score": score})  # fmt: skip
        if score > best:
            _save(self.folder / BEST, adapter, self.trace)

    @property
    def best_step(self) -> int:
        """Step of the best look, the first of equals."""
        return int(max(self.trace, key=lambda look: look["score"])["step"])

    def best(self) -> AdapterState:
        """The adapter of the best look.

        Raises:
            RunError: the file is not there, or holds another.
        """
        found, trace = _load(self.folder / BEST)
        if not trace or trace != self.trace[: len(trace)] or trace[-1]["step"] != self.best_step:
            raise _unusable(self.folder / BEST)
        return found


def train(
    model: LanguageModel,
    start: AdapterState,
    rows: Sequence[Tokens],
    pairs: Sequence[PreferencePair],
    run: Run,
    work: Path,
    *,
    look: Callable[[int], ProbeResult] | None,
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> TrainingOutcome:
    """Train, or go on with a training that was interrupted.

    Args:
        model: its adapter is overwritten.
        start: the adapter to start from.
        rows: for SFT.
        pairs: preference pairs.
        run: settings.
        work: folder where the state is kept.
        look: probes the model as it stands, after so many steps; asked again for the same number
            after an interruption. None: no early stop.
        tell: called with (steps done, of how many); may raise to stop.

    Raises:
        DataError, ModelError: see `prefer.align`.
        RunError: the state is not of this training, or cannot be read or written.
    """
    watch = _Watch(work, run)
    resume = _resumed(work / STATE, watch)
    every = run.every if look else SAVE_EVERY

    def stop(step: int) -> bool:
        return look is not None and watch.ends(step, look, model)

    def on_state(state: Mapping[str, Tensor]) -> None:
        _save(work / STATE, state, watch.trace)

    def on_step(step: AlignStep) -> None:
        tell(step.step, run.steps)

    cosine = learning_rates(
        run.learning_rate,
        schedule="cosine",
        warmup_steps=run.warmup_steps,
        total_steps=run.steps,
    )
    settings = AlignSettings(
        objective=run.objective,
        steps=run.steps,
        rows_per_step=run.rows,
        pairs_per_step=run.pairs,
        learning_rate=watch.rate if look else cosine,
        seed=run.seed,
        clip_norm=run.clip_norm,
        weight_decay=run.weight_decay,
        micro_batch_tokens=run.micro_batch_tokens,
        group=1,
    )
    hooks = AlignHooks(on_step, every, stop, on_state, resume)
    adapter, result = align(model, start, rows, pairs, settings, hooks)
    done = len(result.steps)
    at, why = done, f"{run.steps} steps"
    if look is not None:
        if not watch.trace or watch.trace[-1]["step"] != done:
            with model.using(adapter):
                watch.take(done, look(done), adapter)
        if watch.satisfied:
            why = "probe satisfied"
        elif (at := watch.best_step) != done:
            adapter = watch.best()
            why = f"{why}; the best look was after {at}"
    return TrainingOutcome(
        adapter,
        done,
        at,
        why,
        tuple(watch.trace),
        result.steps[0].loss,
        result.steps[-1].loss,
        result.tokens,
        result.operations,
        result.seconds,
    )


def _resumed(file: Path, watch: _Watch) -> dict[str, Tensor] | None:
    """The state of an interrupted training, with its trace put into the watch."""
    if not file.is_file():
        return None
    state, watch.trace = _load(file)
    return state


def _load(file: Path) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Tensors of a file and the trace beside them."""
    try:
        tensors, note = load_sealed(file)
        return tensors, json.loads(note.get("trace", "[]"))
    except (RunError, ChecksumError, ValueError) as error:
        raise _unusable(file) from error


def _unusable(file: Path) -> RunError:
    return RunError(
        f"{file} is not what this training left there",
        hint=f"delete {STATE} and {BEST} there to train again",
    )


def _save(path: Path, tensors: Mapping[str, Tensor], trace: Sequence[dict[str, float]]) -> None:
    """Write a safetensors file whole or not at all."""
    with writing(path, RunError):
        save_sealed(path, tensors, {"trace": json.dumps(list(trace))})


def check_state(work: Path) -> None:
    """See that the state of an interrupted training can be gone on with.

    Raises:
        RunError: a file of it is damaged.
    """
    for file in (work / STATE, work / BEST):
        if file.is_file():
            _load(file)
