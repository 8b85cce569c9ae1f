"""The sections of defences: what they change, and which of them can be combined.

A method works on the server, on the aggregated adapter, or on the clients, in their training. The
server's are in `federation/defences/`, those of the clients in `training/`. docs/defences.md
describes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedrai import plugins
from fedrai.recipe.base import Section

DEFENCE_PLUGINS: plugins.Group = "fedrai.defences"


class Mean(Section):
    """Mean of weights with the start (arXiv 2412.19512)."""

    share: float = Field(0.5, gt=0, le=1)
    """Weight of `adapter.start` in the adapter; the aggregated one has the rest."""


class Resta(Section):
    """Adding the safety vector, aligned minus unaligned (RESTA, arXiv 2402.11746)."""

    strength: float = Field(0.5, gt=0)
    """Multiple of the safety vector that is added to the aggregated model."""
    drop: float = Field(0.0, ge=0, lt=1)
    """DARE (arXiv 2311.03099): share of the clients' change that is dropped at random, before the rest is scaled up to keep its mean. 0: none."""


class SafeLora(Section):
    """Projection of layers that deviate (Safe LoRA, arXiv 2405.16833)."""

    threshold: float = Field(0.55, ge=0, le=1)
    """A layer is projected if the cosine between its change and the projected change is below this. With SmolLM2-135M and `fedrai:aligned` the median layer has 0.55 after three rounds, and none is below 0.4."""
    projection: Literal["published", "orthogonal"] = "published"
    """`published`: C = V V^T / ||V||, which enlarges the change in strong directions of V and shrinks it in weak ones. `orthogonal`: onto the columns of V, with the same size."""


class SafeMerge(Section):
    """Merging of layers that deviate with the start (SafeMERGE, arXiv 2503.17239)."""

    threshold: float = Field(0.55, ge=0, le=1)
    """A layer is merged if the cosine of Safe LoRA's test is below this."""
    share: float = Field(0.2, gt=0, le=1)
    """Weight of the start in a merged layer."""


class CsuLora(Section):
    """Closest safe update (CSULoRA, arXiv 2605.30640)."""

    energy: float = Field(0.9, gt=0, le=1)
    """Size of the aligned subspace: the fewest directions with this share of the start's energy in a layer."""
    partial: float = Field(1.0, ge=0)
    """Penalty of the part of a change that is aligned on one side only. 0: it is kept."""
    outside: float = Field(4.0, ge=0)
    """Penalty of the part that is aligned on neither side. 0: it is kept."""


SERVER: dict[str, type[Section]] = {
    "mean": Mean,
    "resta": Resta,
    "safe-lora": SafeLora,
    "safe-merge": SafeMerge,
    "csulora": CsuLora,
}
"""Methods that change the aggregated adapter, with their sections."""
CLIENTS: dict[str, type[Section]] = {}
"""Methods that change the training of clients, with their sections."""
NEED_START = ("mean", "resta", "safe-lora", "safe-merge", "csulora")
REFITTED = ("resta", "safe-lora", "safe-merge", "csulora")
"""Methods that write the adapter's factors anew."""
ALIKE = {
    ("mean", "resta"): "both add the start to all layers alike; one strength is enough",
    ("safe-lora", "safe-merge"): "both correct the layers that fail the same test",
    ("safe-lora", "csulora"): "both remove from the change what is outside the start's directions",
    ("safe-merge", "csulora"): "the second would judge layers that the first has corrected",
}
"""Pairs that cannot be combined, with the reason."""


class Defence(Section):
    """What the server does to the aggregated adapter, or clients in their training, for safety."""

    added_keys = ("mean", "resta", "safe_lora", "safe_merge", "csulora")

    method: str | list[str] = ""
    """A method or a list, applied in its order: `mean`, `resta`, `safe-lora`, `safe-merge`, `csulora`, or a name among the entry points `fedrai.defences`; see docs/defences.md and docs/extending.md. Empty: none."""
    settings: dict[str, Any] = {}
    """Arguments that an installed package's method is called with."""
    mean: Mean = Mean()
    """Settings of `mean`."""
    resta: Resta = Resta()
    """Settings of `resta`."""
    safe_lora: SafeLora = SafeLora()
    """Settings of `safe-lora`."""
    safe_merge: SafeMerge = SafeMerge()
    """Settings of `safe-merge`."""
    csulora: CsuLora = CsuLora()
    """Settings of `csulora`."""

    @property
    def methods(self) -> list[str]:
        """The methods in their order; empty: none."""
        return [self.method] * bool(self.method) if isinstance(self.method, str) else self.method

    @property
    def on_server(self) -> list[str]:
        """Those that change the aggregated adapter."""
        return [name for name in self.methods if name not in CLIENTS]

    @property
    def installed(self) -> list[str]:
        """Those of installed packages."""
        return [name for name in self.methods if name not in {*SERVER, *CLIENTS}]

    def section(self, method: str) -> Any:
        """The settings of a built-in method."""
        return getattr(self, method.replace("-", "_"))

    @field_validator("method", mode="before")
    @classmethod
    def _is_name_or_list(cls, value: object) -> object:
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"expected the name of a method or a list of names, got {value!r}")
        return value

    @model_validator(mode="after")
    def _methods_exist(self) -> Defence:
        known = [*SERVER, *CLIENTS, *plugins.names(DEFENCE_PLUGINS)]
        for name in self.methods:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                others = f"; built in: {', '.join([*SERVER, *CLIENTS])}"
                advice = plugins.installed(DEFENCE_PLUGINS) + others
                advice = f"did you mean {near[0]}?" if near else advice
                raise ValueError(f"no defence {name!r}; {advice}")
        return self

    @model_validator(mode="after")
    def _methods_combine(self) -> Defence:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("method: a defence is listed twice")
        for pair in combinations(self.methods, 2):
            if reason := ALIKE.get(pair) or ALIKE.get(pair[::-1]):
                raise ValueError(f"method: {pair[0]} and {pair[1]} do not combine: {reason}")
        if self.settings and len(self.installed) > 1:
            raise ValueError("settings: it is not clear for which of several installed defences")
        return self


def problem(defence: Defence, mode: str, start: str, rule: str) -> str:
    """Why a recipe cannot have these defences; empty: it can.

    Args:
        defence: the section.
        mode: `federation.mode`.
        start: `adapter.start`.
        rule: `aggregation.algorithm`.
    """
    if defence.on_server and mode == "local":
        return 'defence.method: there is no aggregated model with federation.mode = "local"'
    if not start and (needed := _first(defence.methods, NEED_START)):
        return f"defence.method: {needed} needs adapter.start, the aligned adapter"
    refitted = _first(defence.methods, REFITTED)
    if refitted and rule in ("fedavgm", "fedadam", "fedyogi", "fedadagrad"):
        return (
            f"defence.method: {refitted} writes the adapter's factors anew, so that the moments which"
            f" {rule} keeps of them from round to round would no longer fit"
        )
    return ""


def _first(methods: Sequence[str], among: Sequence[str]) -> str:
    return next((name for name in methods if name in among), "")
