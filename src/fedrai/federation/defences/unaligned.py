"""An adapter without alignment, which the server makes for `resta` from harmful rows.

As in RESTA (arXiv 2402.11746, section 3) the aligned model is trained on harmful rows; what that
takes away is the safety vector. It is made once in a run and kept in the run folder. It is harmful
by design: whoever gives a run folder away should leave `defence/` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai.federation.defences.base import OnProgress, ignore
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import Tokens
from fedrai.runs.costs import Cost
from fedrai.runs.files import load_sealed, save_sealed
from fedrai.training.sft import SftSettings, train

ROWS = 8  # of a step


@dataclass(frozen=True, slots=True)
class Unaligned:
    """Makes the adapter, or reads the one that the run has.

    Attributes:
        model: the base model.
        start: the aligned adapter.
        rows: harmful rows.
        steps: optimiser steps.
        learning_rate: of AdamW.
        seed: decides the order of the rows.
        file: where it is kept.
        on_progress: told of the steps; may raise to stop.
    """

    model: LanguageModel
    start: AdapterState
    rows: Sequence[Tokens]
    steps: int
    learning_rate: float
    seed: int
    file: Path
    on_progress: OnProgress = ignore

    def adapter(self) -> tuple[AdapterState, Cost]:
        """The adapter, and what it cost now.

        Raises:
            RunError, ChecksumError: the file is damaged.
        """
        if self.file.is_file():
            return load_sealed(self.file)[0], Cost()
        settings = SftSettings(self.steps, ROWS, lambda _: self.learning_rate)
        adapter, result = train(
            self.model, self.start, self.rows, settings, seed=self.seed,
            on_step=lambda step: self.on_progress("unaligned", step.step, step.steps),
        )  # fmt: skip
        self.file.parent.mkdir(exist_ok=True)
        save_sealed(self.file, adapter, {})
        return adapter, Cost(tokens=result.tokens, operations=result.operations)
