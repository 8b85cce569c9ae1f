"""The recipe of `fedrai align`: one alignment of one model, without a federation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, model_validator

from fedrai.recipe.alignment import Alignment
from fedrai.recipe.base import Section
from fedrai.recipe.evaluation import Evaluation
from fedrai.recipe.run import Adapter, Model, Recipe
from fedrai.recipe.safety import GuardTable
from fedrai.recipe.sources import as_before

SCHEDULES = ("budget", "full")


class AlignRecipe(Section):
    """Beside these keys: `[model]`, `[adapter]`, `[constitution]` and `[evaluation]`, as in a run."""

    name: str = Field("aligned", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the aligned model."""
    seed: int = Field(0, ge=0)
    """All randomness comes from it."""
    max_length: int = Field(512, ge=8)
    """Longest request with its answer in tokens, while training; longer ones are cut at the end."""
    model: Model
    """The model; `base` may be an adapter folder or a run too, and be given on the command line."""
    adapter_base: str = ""
    """Where `model.base` is an adapter or a run: its own base model, if that does not lie where it says."""
    adapter: Adapter = Adapter()
    """The adapter that is trained, unless one is given to start from."""
    constitution: Alignment
    """The alignment; `schedule` is `budget` unless it is `full`."""
    evaluation: Evaluation | None = None
    """What is measured before and after; nothing without this section."""
    guards: dict[str, GuardTable] = {}
    """Guards of your own by name."""

    @model_validator(mode="before")
    @classmethod
    def _budget(cls, table: Any) -> Any:
        """A schedule where none is set."""
        found = table.get("constitution", {}) if isinstance(table, dict) else None
        if not isinstance(found, dict):
            return table
        return table | {"constitution": {"schedule": SCHEDULES[0]} | found}

    @model_validator(mode="after")
    def _one_alignment(self) -> AlignRecipe:
        if self.constitution.schedule not in SCHEDULES:
            raise ValueError(
                f'constitution.schedule: "{self.constitution.schedule}" needs rounds;'
                ' expected "budget" or "full"'
            )
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved recipe (canonical JSON), in hex."""
        unset = set() if self.adapter_base else {"adapter_base"}  # as before there was such a key
        body = as_before(self.model_dump(mode="json", exclude=unset))
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def as_run(self) -> Recipe:
        """The run of one round, without clients of its own, that does the same on its server."""
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
