"""The training of one alignment: `prefer.align` with a state on disk and a two-sided early stop.

A model learns to refuse before it learns which requests to refuse, and it learns that while its
steps become small. So the probe does not end a training at once: after the first look that
satisfies it, the learning rate falls to 0, and likewise over the last steps if no look satisfies it
(a schedule of warm-up, stable rate and decay, as in arXiv 2405.18392). The final adapter is that of
the last step if the probe is satisfied there too, else that of the best look: the one whose worse
side is nearest to its bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fedrai.constitution.probe import ProbeResult
from fedrai.constitution.schedule import satisfied, score
from fedrai.errors import ChecksumError, RunError
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.alignment import Alignment
from fedrai.records import Tokens
from fedrai.runs.files import load_sealed, save_sealed, writing
from fedrai.training.prefer import AlignHooks, AlignSettings, PreferencePair, align
from fedrai.training.sft import learning_rates

STATE, BEST = "state.safetensors", "best.safetensors"
SAVE_EVERY = 10  # steps between two states where the probe does not look


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """The result of a training.

    Attributes:
        adapter: the final one.
        steps: all steps, also those after the final adapter.
        adapter_step: step of the final adapter.
        stopped: why the training ended.
        trace: figures of each look: step, safe, useful, score.
        loss_first: loss at the first step; None without steps.
        loss_last: loss at the last step, likewise.
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

    def figures(self) -> dict[str, Any]:
        """Its part of a report, as plain values."""
        names = ("steps", "adapter_step", "stopped", "trace", "loss_first", "loss_last")
        return {name: getattr(self, name) for name in names} | {"trace": list(self.trace)}


def untrained(start: AdapterState, why: str) -> TrainingOutcome:
    """The result of no training: the adapter itself."""
    return TrainingOutcome(start, 0, 0, why, (), None, None)


@dataclass(slots=True)
class Training:
    """One training, which resumes after an interruption.

    Attributes:
        model: its adapter is overwritten.
        section: the recipe's; `steps` and `mix` are those of this training.
        seed: for the order of rows and pairs.
        folder: where the state is stored.
        look: probes the model as it stands, after so many steps; called again for the same number
            after an interruption. None: no early stop.
        on_progress: called with (steps done, of how many); may raise to stop.
        trace: figures of the looks so far.
    """

    model: LanguageModel
    section: Alignment
    seed: int
    folder: Path
    look: Callable[[int], ProbeResult] | None = None
    on_progress: Callable[[int, int], None] = lambda _done, _of: None
    trace: list[dict[str, float]] = field(default_factory=list)

    def run(
        self, start: AdapterState, rows: Sequence[Tokens], pairs: Sequence[PreferencePair]
    ) -> TrainingOutcome:
        """Train, or resume an interrupted training.

        Args:
            start: the adapter to start from.
            rows: rows for SFT.
            pairs: preference pairs.

        Raises:
            DataError, ModelError: see `prefer.align`.
            RunError: the stored state is of another training, or cannot be read or written.
        """
        state = None
        if (self.folder / STATE).is_file():
            state, self.trace = _load(self.folder / STATE)
        adapter, result = align(self.model, start, rows, pairs, self._settings, self._hooks(state))
        done = len(result.steps)
        adapter, step, stopped = self._choose_adapter(adapter, done)
        return TrainingOutcome(
            adapter,
            done,
            step,
            stopped,
            tuple(self.trace),
            result.steps[0].loss,
            result.steps[-1].loss,
            result.tokens,
            result.operations,
            result.seconds,
        )

    @property
    def _settings(self) -> AlignSettings:
        section = self.section
        cosine = learning_rates(
            section.learning_rate,
            schedule="cosine",
            warmup_steps=section.warmup_steps,
            total_steps=section.steps,
        )
        return AlignSettings(
            objective=section.objective,
            steps=section.steps,
            rows_per_step=section.mix.rows,
            pairs_per_step=section.mix.pairs,
            learning_rate=self.rate if self.look else cosine,
            seed=self.seed,
            clip_norm=section.clip_norm,
            weight_decay=section.weight_decay,
            micro_batch_tokens=section.micro_batch_tokens,
            group=1,
        )

    def _hooks(self, state: Mapping[str, Tensor] | None) -> AlignHooks:
        return AlignHooks(
            on_step=lambda step: self.on_progress(step.step, self.section.steps),
            every=self.section.probe.every if self.look else SAVE_EVERY,
            stop=self._stops,
            on_state=lambda tensors: _save(self.folder / STATE, tensors, self.trace),
            resume=state,
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0, where the probe may end the training."""
        warmup, cooldown = self.section.warmup_steps, self.section.cooldown_steps
        rising = min(1.0, (step + 1) / (warmup + 1))
        falling = min(1.0, (self.end - step) / cooldown) if cooldown else 1.0
        return self.section.learning_rate * min(rising, falling)

    @property
    def end(self) -> int:
        """Steps after which the training is over, as far as is known by now."""
        first = next((int(look["step"]) for look in self.trace if self._satisfies(look)), None)
        every, steps = self.section.probe.every, self.section.steps
        cooling = math.ceil(self.section.cooldown_steps / max(1, every)) * every
        return steps if first is None else min(steps, first + cooling)

    def _stops(self, step: int) -> bool:
        """Whether to stop after so many steps; looks unless the rate is falling already."""
        if self.look is None:
            return False
        if not any(self._satisfies(look) and look["step"] < step for look in self.trace):
            self._note(step, self.look(step), self.model.adapter())
        return step >= self.end

    def _satisfies(self, look: Mapping[str, float]) -> bool:
        return satisfied(self.section.probe, look["safe"], look["useful"])

    def _note(self, step: int, result: ProbeResult, adapter: AdapterState) -> None:
        """Note a look, and store the adapter if it is the best so far."""
        self.trace = [look for look in self.trace if look["step"] < step]  # called again on resume
        now = score(self.section.probe, result.safe, result.useful)
        best = max((look["score"] for look in self.trace), default=-1.0)
        self.trace.append({"step": step, "safe": result.safe, "useful": result.useful,
                           "score": now})  # fmt: skip
        if now > best:
            _save(self.folder / BEST, adapter, self.trace)

    def _choose_adapter(self, adapter: AdapterState, done: int) -> tuple[AdapterState, int, str]:
        """The adapter to release, its steps, and why the training ended."""
        stopped = f"{self.section.steps} steps"
        if self.look is None:
            return adapter, done, stopped
        if not self.trace or self.trace[-1]["step"] != done:
            with self.model.using(adapter):
                self._note(done, self.look(done), adapter)
        if self._satisfies(self.trace[-1]):
            return adapter, done, "probe satisfied"
        best = int(max(self.trace, key=lambda look: look["score"])["step"])  # the first of equals
        if best == done:
            return adapter, done, stopped
        return self._best(best), best, f"{stopped}; the best look was after {best}"

    def _best(self, step: int) -> AdapterState:
        """The stored adapter of the best look, after so many steps.

        Raises:
            RunError: the file is missing, or holds another adapter.
        """
        adapter, trace = _load(self.folder / BEST)
        if not trace or trace != self.trace[: len(trace)] or trace[-1]["step"] != step:
            raise _unusable(self.folder / BEST)
        return adapter


def _load(file: Path) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Tensors of a file and the trace beside them."""
    try:
        tensors, note = load_sealed(file)
        return tensors, json.loads(note.get("trace", "[]"))
    except (RunError, ChecksumError, ValueError) as error:
        raise _unusable(file) from error


def _unusable(file: Path) -> RunError:
    return RunError(
        f"{file} does not belong to this training",
        hint=f"delete {STATE} and {BEST} there to train again",
    )


def _save(path: Path, tensors: Mapping[str, Tensor], trace: Sequence[dict[str, float]]) -> None:
    """Write a safetensors file whole or not at all."""
    with writing(path, RunError):
        save_sealed(path, tensors, {"trace": json.dumps(list(trace))})


def check_state(folder: Path) -> None:
    """Check that an interrupted training can be resumed.

    Raises:
        RunError: a file of it is damaged.
    """
    for file in (folder / STATE, folder / BEST):
        if file.is_file():
            _load(file)
