"""Defences: what the server does to the aggregated adapter before it is aligned and sent.

All of them come from installed packages; see docs/extending.md. The recipe's section `[defence]` is
`Defence` in `recipe/defence.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from fedrai import plugins
from fedrai.errors import FederationError, ModelError
from fedrai.federation.aggregation import check_values
from fedrai.model import AdapterState
from fedrai.model.adapters import check_adapter
from fedrai.recipe.defence import DEFENCE_PLUGINS
from fedrai.recipe.sections import Defence

Defend = Callable[[int, AdapterState, AdapterState], AdapterState]
"""Round, adapter that the round started from, aggregated adapter -> adapter to continue with."""


def build(settings: Defence) -> Defend | None:
    """The defence that a recipe names; None if it names none.

    Raises:
        DependencyError: its package cannot be used.
        FederationError: what the package returns is not a defence.
    """
    if not settings.method:
        return None
    defence = plugins.make(DEFENCE_PLUGINS, settings.method, **settings.settings)
    if not callable(getattr(defence, "after", None)):
        raise FederationError(
            f"the plug-in {settings.method!r} of"
            f" {plugins.package(DEFENCE_PLUGINS, settings.method)} is not a defence:"
            " it has no method after",
            hint="see docs/extending.md",
        )
    return _with_checks(settings.method, defence.after)


def _with_checks(name: str, after: Defend) -> Defend:
    """A wrapper that calls the defence with copies and checks the adapter that it returns."""

    def defend(number: int, before: AdapterState, aggregated: AdapterState) -> AdapterState:
        place = f"round {number}: the defence {name!r}"
        try:
            adapter = after(number, _copy(before), _copy(aggregated))
            check_adapter(adapter, {key: tuple(t.shape) for key, t in aggregated.items()})
            adapter = {key: adapter[key].detach().float() for key in aggregated}
        except ModelError as error:
            raise FederationError(f"{place}: {error.message}") from error
        except Exception as error:
            raise FederationError(f"{place} fails: {type(error).__name__}: {error}") from error
        check_values(adapter, f"{place}:", "correct [defence] settings, or the package")
        return adapter

    return defend


def _copy(adapter: AdapterState) -> AdapterState:
    return {name: tensor.clone() for name, tensor in adapter.items()}
