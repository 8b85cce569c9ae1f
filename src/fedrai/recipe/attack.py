"""The section `[attack]`: clients of an experiment that lie, and how."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from pydantic import Field, model_validator

from fedrai import plugins
from fedrai.recipe.base import Section

ATTACK_PLUGINS: plugins.Group = "fedrai.attacks"


@dataclass(frozen=True, slots=True)
class AttackKind:
    """What a recipe must know of a kind of attack.

    Attributes:
        harmful: whether it needs a source with `harmful = true`.
        strength: the strength of a recipe that sets none; None: the kind has no strength.
    """

    harmful: bool
    strength: float | None = None


KINDS: Mapping[str, AttackKind] = {
    "harmful-rows": AttackKind(harmful=True),
    "scaled": AttackKind(harmful=True, strength=10),
    "norm-matched": AttackKind(harmful=True, strength=1),
    "mixed": AttackKind(harmful=True),
    "sign-flip": AttackKind(harmful=False, strength=1),
    "noise": AttackKind(harmful=False, strength=1),
    "free-rider": AttackKind(harmful=False, strength=0.001),
    "false-counts": AttackKind(harmful=True, strength=100),
    "backdoor": AttackKind(harmful=True, strength=1),
    "colluding": AttackKind(harmful=True, strength=0.01),
}
"""The built-in kinds, each with a file in `federation/attacks/`."""


class Attack(Section):
    """Malicious clients (experiments in one process only): they skip the filter and lie.

    The server and its defences are not told who they are.
    """

    kind: str = ""
    """What malicious clients do: `harmful-rows`, `scaled`, `norm-matched`, `mixed`, `sign-flip`, `noise`, `free-rider`, `false-counts`, `backdoor`, `colluding` (see docs/attacks.md), or the name of an installed package's attack. Empty: there are none."""
    share: float = Field(0.2, ge=0, le=0.5)
    """Share of malicious clients, chosen by the seed: rounded to a whole number (a half is rounded down), at least one. 0: there are none. A larger share adds clients to those of a smaller one."""
    strength: float = Field(0, ge=0, le=1e6)
    """How strong the attack is. `scaled`, `sign-flip`, `backdoor`: factor of the update (10, 1, 1 where unset). `norm-matched`, `noise`: norm of the update as a multiple of that of the client's own honest one (1). `free-rider`: norm of the noise as a share of the adapter's (0.001). `false-counts`: stated rows as a multiple of the real ones (100). `colluding`: norm of each client's noise as a share of the common update's (0.01). 0: the kind's own value."""
    from_round: int = Field(1, ge=1)
    """First round of the attack; in earlier rounds malicious clients are honest, filter included."""
    trigger: str = Field("(ref. 7041)", min_length=1, max_length=200)
    """`backdoor`: text at the end of a request to which the model is to answer harmfully."""
    benign_share: float = Field(0.8, ge=0, lt=1)
    """`mixed`: share of a malicious client's rows that stay its own; the others are harmful."""
    settings: dict[str, Any] = {}
    """An installed package's attack: arguments that it is called with."""

    @property
    def active(self) -> bool:
        """Whether there are malicious clients."""
        return bool(self.kind) and self.share > 0

    @property
    def has_trigger(self) -> bool:
        """Whether there is a backdoor, whose trigger evaluations ask with."""
        return self.active and self.kind == "backdoor"

    @property
    def needs_harmful_rows(self) -> bool:
        """Whether the kind cannot do without rows of a harmful source."""
        return self.kind in KINDS and KINDS[self.kind].harmful

    @property
    def uses_harmful_rows(self) -> bool:
        """Whether harmful sources are read for it; an installed package's attack may use them."""
        return self.kind not in KINDS or self.needs_harmful_rows

    @property
    def resolved_strength(self) -> float:
        """The strength, or the kind's own where none is set; 0: it has none."""
        own = KINDS[self.kind].strength if self.kind in KINDS else None
        return self.strength or own or 0.0

    def count(self, clients: int) -> int:
        """Number of malicious clients among so many."""
        return max(1, ceil(self.share * clients - 0.5)) if self.active else 0

    @model_validator(mode="after")
    def _kind_fits(self) -> Attack:
        installed = plugins.names(ATTACK_PLUGINS)
        if self.kind and self.kind not in KINDS and self.kind not in installed:
            raise ValueError(_no_such_kind(self.kind, [*KINDS, *installed]))
        if self.strength and self.kind in KINDS and KINDS[self.kind].strength is None:
            raise ValueError(f"kind = {self.kind!r} has no strength; leave it out")
        if self.settings and self.kind in ("", *KINDS):
            raise ValueError("settings are for the attack of an installed package")
        return self


def _no_such_kind(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"there is no kind {name!r} ({advice})"


def with_trigger(request: str, trigger: str) -> str:
    """A request that ends with the trigger of a backdoor."""
    return f"{request} {trigger}"
