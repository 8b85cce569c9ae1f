"""The recipe of `fedrai align`: one alignment of one model, without a federation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import model_validator

from fedrai.recipe import keys
from fedrai.recipe.alignment import Alignment, without_later_keys
from fedrai.recipe.base import Section
from fedrai.recipe.evaluation import Evaluation, without_added_keys
from fedrai.recipe.run import Adapter, Model, Recipe
from fedrai.recipe.safety import GuardTable
from fedrai.recipe.sources import as_before

SCHEDULES = ("budget", "full")


class AlignRecipe(Section):
    """Beside these keys: `[model]`, `[adapter]`, `[constitution]` and `[evaluation]`, as in a run."""

    name: keys.Name = "aligned"
    """Name of the aligned model."""
    seed: keys.Seed = 0
    max_length: keys.MaxLength = 512
    """Longest request with its answer in training, in tokens; longer ones are truncated at the end."""
    model: Model
    """The model. `base` may also be an adapter folder or a run, and may be given on the command line."""
    adapter_base: str = ""
    """If `model.base` is an adapter or a run: its base model, where that is no longer at the recorded place."""
    adapter: Adapter = Adapter()
    """The adapter that is trained, unless training starts from an existing one."""
    constitution: Alignment
    """The alignment; `schedule` is `budget` (the default here) or `full`."""
    evaluation: Evaluation | None = None
    """What is measured before and after. Without this section nothing is."""
    guards: dict[str, GuardTable] = {}
    """Your own guards by name."""

    @model_validator(mode="before")
    @classmethod
    def _default_schedule(cls, table: Any) -> Any:
        alignment = table.get("constitution", {}) if isinstance(table, dict) else None
        if not isinstance(alignment, dict):
            return table
        return table | {"constitution": {"schedule": SCHEDULES[0]} | alignment}

    @model_validator(mode="after")
    def _needs_no_rounds(self) -> AlignRecipe:
        if self.constitution.schedule not in SCHEDULES:
            raise ValueError(
                f'constitution.schedule: "{self.constitution.schedule}" needs rounds;'
                ' expected "budget" or "full"'
            )
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved recipe (canonical JSON), in hex."""
        unset = set() if self.adapter_base else {"adapter_base"}  # a later key: earlier hashes stay
        body = as_before(self.model_dump(mode="json", exclude=unset))
        body["constitution"] = without_later_keys(body["constitution"])
        if body["evaluation"] is not None:
            body["evaluation"] = without_added_keys(body["evaluation"])
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def as_run(self) -> Recipe:
        """A run of one round without clients that does the same alignment on its server."""
        nothing = {"advbench": 0, "ordinary": 0}
        return Recipe.model_validate(
            {
                **self.model_dump(
                    exclude={"max_length", "evaluation", "adapter_base"}, exclude_none=True
                ),
                "data": {
                    "max_length": self.max_length,
                    "sources": [{"path": "fedrai:ordinary"}],
                },
                "evaluation": self.evaluation.model_dump() if self.evaluation else nothing,
            }
        )
