"""Attacks: what lying clients of an experiment do, one kind a file.

A recipe's section `[attack]` names the kind; `recipe/attack.py` knows which kinds there are. They
act only where server and clients share a process: no deployment has this code on its way. See
docs/attacks.md, and docs/extending.md for an attack of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedrai import plugins
from fedrai.errors import FederationError
from fedrai.federation.attacks.backdoor import Backdoor
from fedrai.federation.attacks.base import Attack
from fedrai.federation.attacks.colluding import Colluding
from fedrai.federation.attacks.false_counts import FalseCounts
from fedrai.federation.attacks.free_rider import FreeRider
from fedrai.federation.attacks.harmful_rows import HarmfulRows
from fedrai.federation.attacks.mixed import Mixed
from fedrai.federation.attacks.noise import Noise
from fedrai.federation.attacks.norm_matched import NormMatched
from fedrai.federation.attacks.scaled import Scaled
from fedrai.federation.attacks.sign_flip import SignFlip
from fedrai.recipe.attack import ATTACK_PLUGINS
from fedrai.recipe.sections import Attack as Settings

ATTACKS: Mapping[str, Callable[[Settings, float], Attack]] = {
    "harmful-rows": lambda _settings, _strength: HarmfulRows(),
    "scaled": lambda _settings, strength: Scaled(strength),
    "norm-matched": lambda _settings, strength: NormMatched(strength),
    "mixed": lambda settings, _strength: Mixed(settings.benign_share),
    "sign-flip": lambda _settings, strength: SignFlip(strength),
    "noise": lambda _settings, strength: Noise(strength),
    "free-rider": lambda _settings, strength: FreeRider(strength),
    "false-counts": lambda _settings, strength: FalseCounts(strength),
    "backdoor": lambda settings, strength: Backdoor(settings.trigger, strength),
    "colluding": lambda _settings, strength: Colluding(strength),
}
"""The built-in kinds, each from a recipe's section and its resolved strength."""


def build(settings: Settings) -> Attack:
    """The attack that a recipe names.

    Raises:
        DependencyError: its package cannot be used.
        FederationError: what the package returns is not an attack.
    """
    if settings.kind in ATTACKS:
        return ATTACKS[settings.kind](settings, settings.resolved_strength)
    attack: Attack = plugins.make(ATTACK_PLUGINS, settings.kind, **settings.settings)
    missing = [n for n in ("rows", "reply") if not callable(getattr(attack, n, None))]
    if missing:
        raise FederationError(
            f"the plug-in {settings.kind!r} of {plugins.package(ATTACK_PLUGINS, settings.kind)}"
            f" is not an attack: it has no method {missing[0]}",
            hint="see docs/extending.md",
        )
    return attack
