"""The section of vetting: scores of the clients' updates, and what follows from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fedrai import plugins
from fedrai.recipe.base import Section

VETTING_PLUGINS: plugins.Group = "fedrai.vetting"
SCORES = (
    "distance",
    "dnc",
    "foolsgold",
    "spectral",
    "functional",
    "gradient",
    "progress",
    "linear",
)
"""The scores that come with FedRAI; see docs/vetting.md."""


class Vetting(Section):
    """The server's look at every update before it is aggregated."""

    action: Literal["off", "record", "weigh", "set-aside"] = "off"
    """What happens to a client whose update is suspicious. `off`: nothing is looked at. `record`: the scores stand in the run and in its report. `weigh`: its weight is multiplied by `weight`. `set-aside`: its update is left out of the round."""
    scores: list[str] = ["distance", "foolsgold", "functional", "gradient", "progress"]
    """The scores: `distance`, `dnc`, `foolsgold`, `spectral` (arithmetic), `functional` (forward passes), `gradient` and `progress` (a backward pass), `linear` (trains shadow clients), or names among the entry points `fedrai.vetting`."""
    false_alarms: float = Field(0.02, gt=0, lt=0.5)
    """Share of honest clients that may be called suspicious. Lower finds fewer malicious ones."""
    weight: float = Field(0.1, gt=0, lt=1)
    """`weigh`: factor on the weight of a suspicious client. Has no effect with robust rules that ignore weights (median, trimmed mean, krum, bulyan)."""
    watch: int = Field(2, ge=0)
    """Rounds for which a client that was suspicious is watched: twice as easily suspicious. 0: every round stands for itself."""
    budget: float = Field(0.05, gt=0, le=1)
    """`functional`, `gradient` and `progress` together: most operations, as a share of those of the round's training. Decides how many requests are read."""
    requests: list[str] = ["fedrai:red-team"]
    """`functional`: sources of harmful requests."""
    harmless: list[str] = ["fedrai:look-alikes"]
    """`functional`: sources of harmless requests."""
    answers: list[str] = ["fedrai:harmful-held-out"]
    """`gradient`, `progress` and `linear`: sources of harmful requests with harmful answers. They stay on the server."""
    shadow_harmless: list[str] = ["fedrai:ordinary", "fedrai:safe-answers"]
    """`linear`: sources of harmless rows."""
    shadow_clients: int = Field(4, ge=2, le=32)
    """`linear`: shadow clients of each kind (harmless rows, harmful rows) that the server trains in the first round that is vetted."""
    shadow_rows: int = Field(36, ge=4)
    """`linear`: rows of a shadow client."""
    settings: dict[str, dict[str, Any]] = {}
    """Arguments of scores of installed packages, a table for each name."""

    @model_validator(mode="after")
    def _scores_exist(self) -> Vetting:
        if not self.scores:
            raise ValueError('scores is empty; name at least one, or set action = "off"')
        if len(set(self.scores)) < len(self.scores):
            raise ValueError("scores: a score is listed twice")
        known = {*SCORES, *plugins.names(VETTING_PLUGINS)}
        if unknown := [name for name in self.scores if name not in known]:
            raise ValueError(
                f"no score {unknown[0]!r}; there are {', '.join(SCORES)};"
                f" {plugins.installed(VETTING_PLUGINS)}"
            )
        if extra := sorted({*self.settings} - ({*self.scores} - {*SCORES})):
            raise ValueError(f"settings.{extra[0]}: no installed score of that name is in scores")
        return self
