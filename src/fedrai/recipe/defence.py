"""The sections of defences: what they change, and which of them can be combined.

A method works on the server, on the aggregated adapter, or on the clients, in their training. The
server's are in `federation/defences/`, those of the clients in `training/`. docs/defences.md
describes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from pydantic import field_validator, model_validator

from fedrai import plugins
from fedrai.recipe.base import Section
from fedrai.recipe.defence_methods import (
    ALIKE,
    CLIENTS,
    NEED_START,
    REFITTED,
    SERVER,
    Antidote,
    Asft,
    ConstrainedSft,
    CsuLora,
    Lisa,
    Mean,
    PostHoc,
    Resta,
    SafeLora,
    SafeMerge,
)

DEFENCE_PLUGINS: plugins.Group = "fedrai.defences"
MOMENTS = ("fedavgm", "fedadam", "fedyogi", "fedadagrad")
"""Aggregation rules that keep moments of the adapter's weights."""


class Defence(Section):
    """What the server does to the aggregated adapter, or clients in their training, for safety."""

    added_keys = (
        "mean", "resta", "safe_lora", "safe_merge", "csulora", "antidote", "post_hoc", "lisa",
        "constrained_sft", "asft",
    )  # fmt: skip

    method: str | list[str] = ""
    """A method or a list, applied in its order: on the server `mean`, `resta`, `safe-lora`, `safe-merge`, `csulora`, `antidote`, `post-hoc`; in the clients' training `lisa`, `constrained-sft`, `asft`; or a name among the entry points `fedrai.defences`; see docs/defences.md and docs/extending.md. Empty: none."""
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
    antidote: Antidote = Antidote()
    """Settings of `antidote`."""
    post_hoc: PostHoc = PostHoc()
    """Settings of `post-hoc`."""
    lisa: Lisa = Lisa()
    """Settings of `lisa`."""
    constrained_sft: ConstrainedSft = ConstrainedSft()
    """Settings of `constrained-sft`."""
    asft: Asft = Asft()
    """Settings of `asft`."""

    @property
    def methods(self) -> list[str]:
        """The methods in their order; empty: none."""
        return [self.method] * bool(self.method) if isinstance(self.method, str) else self.method

    @property
    def on_server(self) -> list[str]:
        """Those that change the aggregated adapter."""
        return [name for name in self.methods if name not in CLIENTS]

    @property
    def on_clients(self) -> list[str]:
        """Those that change the clients' training."""
        return [name for name in self.methods if name in CLIENTS]

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
    needed = _first(defence.methods, NEED_START)
    if not needed and "antidote" in defence.methods and defence.antidote.prune_to == "start":
        needed = "antidote"
    if not start and needed:
        return f"defence.method: {needed} needs adapter.start, the aligned adapter"
    refitted = _first(defence.methods, REFITTED)
    if refitted and rule in (*MOMENTS, "scaffold"):
        state = "moments" if rule in MOMENTS else "control variates"
        return (
            f"defence.method: {refitted} writes the adapter's factors anew, so that the {state} which"
            f" {rule} keeps of them from round to round would no longer fit"
        )
    if "lisa" in defence.methods and rule == "fedprox":
        return (
            "defence.method: lisa and fedprox both have a proximal term, to different weights; use"
            ' aggregation.algorithm = "fedavg"'
        )
    return ""


def _first(methods: Sequence[str], among: Sequence[str]) -> str:
    return next((name for name in methods if name in among), "")
