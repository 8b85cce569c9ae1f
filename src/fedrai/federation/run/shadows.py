"""Shadow clients: adapters that the server trains on its own rows, for the score `linear`.

Each is trained as a client would be in the first vetted round. They are kept in the run folder, so
that a resumed run reads them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai.errors import RunError
from fedrai.federation.run.preparation import sft_settings
from fedrai.federation.vetting.linear import Shadows
from fedrai.federation.vetting.updates import Arithmetic, RoundUpdates
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.records import Tokens
from fedrai.runs.files import load_sealed, save_sealed, writing
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
            ChecksumError, RunError: a kept one is damaged, or one cannot be written.
        """
        start = self._kept(START, updates)
        if start is None:
            start = self._keep(START, updates.start, {})
        sides = zip(("harmless", "harmful"), self.rows, strict=True)
        harmless, harmful = (self._side(kind, rows, start, updates) for kind, rows in sides)
        return Shadows(start, harmless, harmful)

    def _side(
        self, kind: str, rows: Sequence[Tokens], start: AdapterState, updates: RoundUpdates
    ) -> list[AdapterState]:
        adapters = []
        for number in range(1, self.recipe.vetting.shadow_clients + 1):
            name = f"{kind}-{number}"
            adapter = self._kept(name, updates)
            adapters.append(self._train(name, rows, start, updates) if adapter is None else adapter)
        return adapters

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
        spent = {"operations": result.operations, "tokens": result.tokens}
        return self._keep(name, adapter, {"round": str(updates.number), "cost": json.dumps(spent)})

    def _kept(self, name: str, updates: RoundUpdates) -> AdapterState | None:
        """A shadow client of an earlier process, whose cost counts in the round that made it."""
        file = self.folder / f"{name}.safetensors"
        if not file.is_file():
            return None
        adapter, note = load_sealed(file)
        if note.get("round") == str(updates.number):
            updates.meter.add(Arithmetic(**json.loads(note["cost"])))
        return dict(adapter)

    def _keep(self, name: str, adapter: AdapterState, note: Mapping[str, str]) -> AdapterState:
        file = self.folder / f"{name}.safetensors"
        with writing(file, RunError):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_sealed(file, adapter, note)
        return adapter
