"""The section of a defence."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from fedrai import plugins
from fedrai.recipe.base import Section

DEFENCE_PLUGINS: plugins.Group = "fedrai.defences"


class Defence(Section):
    """What the server does to the aggregated adapter before the constitution and the next round."""

    method: str = ""
    """Its name among the entry points `fedrai.defences`; see docs/extending.md. Empty: none."""
    settings: dict[str, Any] = {}
    """Arguments that it is called with."""

    @model_validator(mode="after")
    def _is_installed(self) -> Defence:
        if self.method and self.method not in plugins.names(DEFENCE_PLUGINS):
            raise ValueError(f"no defence {self.method!r}; {plugins.installed(DEFENCE_PLUGINS)}")
        return self
