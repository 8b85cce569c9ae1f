"""A score of an installed package, by an entry point in `fedrai.vetting`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedrai import plugins
from fedrai.errors import FederationError
from fedrai.federation.vetting.scores import Score, Values, plain_reason
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.recipe.vetting import VETTING_PLUGINS


def installed(name: str, settings: Mapping[str, Any]) -> Score:
    """The score of an installed package: a function of `RoundUpdates` that gives a number a client.

    Raises:
        DependencyError: the package cannot be used.
        FederationError: what it returns cannot be called.
    """
    measure = plugins.make(VETTING_PLUGINS, name, **settings)
    if not callable(measure):
        raise FederationError(
            f"the plug-in {name!r} of {plugins.package(VETTING_PLUGINS, name)} is not a score:"
            " it cannot be called",
            hint="see docs/extending.md",
        )

    def checked(updates: RoundUpdates) -> Values:
        place = f"round {updates.number}: the score {name!r}"
        try:
            values = {str(n): float(v) for n, v in measure(_copied(updates)).items()}
        except Exception as error:
            raise FederationError(f"{place} fails: {type(error).__name__}: {error}") from error
        if sorted(values) != updates.names or not all(map(math.isfinite, values.values())):
            raise FederationError(f"{place} does not give a finite number for each client")
        return {n: values[n] for n in updates.names}

    return Score(name, checked, plain_reason(name))


def _copied(updates: RoundUpdates) -> RoundUpdates:
    """The updates with tensors of their own, so that a package cannot change them."""
    adapters = {
        name: {key: tensor.clone() for key, tensor in adapter.items()}
        for name, adapter in updates.adapters.items()
    }
    start = {key: tensor.clone() for key, tensor in updates.start.items()}
    return replace(updates, start=start, adapters=adapters)
