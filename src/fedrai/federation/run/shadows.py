"""Shadow clients: adapters that the server trains on its own rows, for the score `linear`.

Each is trained as a client would be in the first vetted round. They are kept in the run folder, so
that a resumed run reads them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai.federation.run.preparation import sft_settings
from fedrai.federation.vetting.linear import Shadows
from fedrai.federation.vetting.updates import Arithmetic, RoundUpdates
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.records import Tokens
from fedrai.runs.files import load_sealed, save_sealed
from fedrai.training.sft import train

START = "start"


@dataclass(frozen=True, slots=True)
class ShadowClients:
    """Trains shadow clients, or reads those of an earlier process.

    Attributes:
        model: the base model.
        recipe: the run's, whose training settings are used.
        rows: the server's harmless rows and harmful rows.
        folder: where they are kept.
    """

    model: LanguageModel
    recipe: Recipe
    rows: tuple[Sequence[Tokens], Sequence[Tokens]]
    folder: Path

    def __call__(self, updates: RoundUpdates) -> Shadows:
        """The shadow clients, all from one start.

        Raises:
            ChecksumError: a kept one is damaged.
            RunError: the folder cannot be written.
        """
        start = self._kept(START) or self._keep(START, updates.start)
        sides = zip(("harmless", "harmful"), self.rows, strict=True)
        harmless, harmful = (self._side(kind, rows, start, updates) for kind, rows in sides)
        return Shadows(start, harmless, harmful)

    def _side(
        self, kind: str, rows: Sequence[Tokens], start: AdapterState, updates: RoundUpdates
    ) -> list[AdapterState]:
        names = [f"{kind}-{n}" for n in range(1, self.recipe.vetting.shadow_clients + 1)]
        return [
            self._kept(n) or self._keep(n, self._train(n, rows, start, updates)) for n in names
        ]

    def _train(
        self, name: str, rows: Sequence[Tokens], start: AdapterState, updates: RoundUpdates
    ) -> AdapterState:
        """One shadow client after its training on a part of the rows."""
        draw = random.Random(self.recipe.seed_for("shadow-rows", client=name))
        own = draw.sample(list(rows), min(len(rows), self.recipe.vetting.shadow_rows))
        settings = sft_settings(self.recipe, len(own))
        seed = self.recipe.seed_for("shadow-training", client=name)
        adapter, result = train(self.model, start, own, settings, seed=seed)
        updates.meter.add(Arithmetic(result.operations, result.tokens))
        return adapter

    def _kept(self, name: str) -> AdapterState | None:
        file = self.folder / f"{name}.safetensors"
        return dict(load_sealed(file)[0]) if file.is_file() else None

    def _keep(self, name: str, adapter: AdapterState) -> AdapterState:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_sealed(self.folder / f"{name}.safetensors", adapter, {})
        return adapter
