"""Defences: what the server does to the aggregated adapter before it is aligned and sent.

One file a method, each with its formula and source; `base.py` says what a method gets and gives.
`build` makes a chain of the recipe's methods, in their order. Methods of installed packages have
`after(round, before, aggregated)`; see docs/extending.md. The recipe's section `[defence]`, its
checks and the methods that work on clients are in `recipe/defence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedrai import plugins
from fedrai.errors import FederationError, FedRAIError, ModelError
from fedrai.federation.aggregation import check_values
from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.defences.antidote import Antidote
from fedrai.federation.defences.base import Method, Outcome, Task, Tools
from fedrai.federation.defences.csulora import CsuLora
from fedrai.federation.defences.mean import MeanWithStart
from fedrai.federation.defences.post_hoc import PostHoc
from fedrai.federation.defences.resta import Resta
from fedrai.federation.defences.rows import read_rows
from fedrai.federation.defences.safe_lora import SafeLora
from fedrai.federation.defences.safe_merge import SafeMerge
from fedrai.federation.defences.unaligned import Unaligned
from fedrai.model import AdapterState
from fedrai.model.adapters import check_adapter
from fedrai.model.products import change_norm
from fedrai.recipe import defence_methods as sections
from fedrai.recipe.defence import DEFENCE_PLUGINS
from fedrai.recipe.sections import Defence, seed_for
from fedrai.runs.costs import Cost
from fedrai.training.sft import SftSettings

__all__ = ["Defend", "Defended", "Outcome", "Task", "Tools", "build"]

NO_TOOLS = Tools()
Defend = Callable[[int, AdapterState, AdapterState], "Defended"]
"""Round, adapter that the round started from, aggregated adapter -> what the defences made."""


@dataclass(frozen=True, slots=True)
class Defended:
    """What the defences of a round made together.

    Attributes:
        adapter: the adapter to continue with.
        steps: for each method in its order its name, `norm` (how far it moved the adapter's
            weights), `moved` (the same of the layers' matrices, without LoRA's scale), `change`
            (how far the round's training and aggregation had moved these) and what it says of
            itself.
        cost: tokens and operations of all.
    """

    adapter: AdapterState
    steps: tuple[Mapping[str, Any], ...] = ()
    cost: Cost = field(default_factory=Cost)


def build(settings: Defence, tools: Tools = NO_TOOLS) -> Defend | None:
    """The defences that a recipe names, in their order; None if it names none for the server.

    Raises:
        DependencyError: a package cannot be used.
        FederationError: what a package returns is not a defence.
    """
    methods = {name: _method(name, settings, tools) for name in settings.on_server}
    if not methods:
        return None

    def defend(number: int, before: AdapterState, aggregated: AdapterState) -> Defended:
        done, change = Defended(aggregated), change_norm(before, aggregated)
        for name, method in methods.items():
            done = _step(name, method, Task(number, before, done.adapter), done, change)
        return done

    return defend


def _step(name: str, method: Method, task: Task, done: Defended, change: float) -> Defended:
    """Apply one method, and add what it did."""
    outcome = _checked(name, method, task)
    norm, moved = (far(task.adapter, outcome.adapter) for far in (update_norm, change_norm))
    step = {"method": name, "norm": norm, "moved": moved, "change": change, **outcome.report}
    return Defended(outcome.adapter, (*done.steps, step), done.cost + outcome.cost)


def _method(name: str, settings: Defence, tools: Tools) -> Method:
    if name not in _BUILT_IN:
        return _Installed(name, _installed(name, settings.settings))
    return _BUILT_IN[name](settings.section(name), tools)


def _antidote(section: sections.Antidote, tools: Tools) -> Method:
    model = tools.language_model
    rows = read_rows(model, section.rows, section.count, tools.seed, tools.max_length)
    pruned = tools.aligned if section.prune_to == "start" else None
    return Antidote(model, rows, section.share, pruned, tools.on_progress)


def _resta(section: sections.Resta, tools: Tools) -> Method:
    harmful = section.unaligned == "harmful"
    unaligned = _unaligned(section, tools).adapter if harmful else None
    return Resta(tools.aligned, unaligned, section.strength, section.drop, tools.seed)


def _unaligned(section: sections.Resta, tools: Tools) -> Unaligned:
    model, seed = tools.language_model, seed_for(tools.seed, "unaligned")
    rows = read_rows(model, section.rows, 0, tools.seed, tools.max_length)
    return Unaligned(
        model, tools.aligned, rows, section.steps, section.learning_rate, seed,
        tools.folder / "unaligned.safetensors", tools.on_progress,
    )  # fmt: skip


def _post_hoc(section: sections.PostHoc, tools: Tools) -> Method:
    rate = section.learning_rate
    return PostHoc(
        tools.language_model, tools.aligned, tools.requests,
        SftSettings(section.steps, section.batch_size, lambda _: rate), tools.seed,
        section.max_new_tokens, tools.max_length, tools.folder / "answers.jsonl",
        tools.on_progress,
    )  # fmt: skip


_BUILT_IN: Mapping[str, Callable[[Any, Tools], Method]] = {
    "mean": lambda s, t: MeanWithStart(t.aligned, s.share),
    "resta": _resta,
    "safe-lora": lambda s, t: SafeLora(t.aligned, t.scale, s.threshold, s.projection),
    "safe-merge": lambda s, t: SafeMerge(t.aligned, t.scale, s.threshold, s.share),
    "csulora": lambda s, t: CsuLora(t.aligned, s.energy, s.partial, s.outside),
    "antidote": _antidote,
    "post-hoc": _post_hoc,
}


def _installed(name: str, settings: Mapping[str, Any]) -> Any:
    defence = plugins.make(DEFENCE_PLUGINS, name, **settings)
    if not callable(getattr(defence, "after", None)):
        raise FederationError(
            f"the plug-in {name!r} of {plugins.package(DEFENCE_PLUGINS, name)} is not a defence:"
            " it has no method after",
            hint="see docs/extending.md",
        )
    return defence


@dataclass(frozen=True, slots=True)
class _Installed:
    """A defence of an installed package, which gets copies."""

    name: str
    defence: Any

    def after(self, task: Task) -> Outcome:
        before, aggregated = _copy(task.before), _copy(task.adapter)
        return Outcome(self.defence.after(task.number, before, aggregated))


def _checked(name: str, method: Method, task: Task) -> Outcome:
    """Apply a method, and check the adapter that it returns.

    Raises:
        FederationError: it fails, or the adapter cannot be used.
    """
    place = f"round {task.number}: the defence {name!r}"
    try:
        outcome = method.after(task)
        shapes = {key: tuple(t.shape) for key, t in task.adapter.items()}
        check_adapter(outcome.adapter, shapes)
        adapter = {key: outcome.adapter[key].detach().float() for key in task.adapter}
    except ModelError as error:
        raise FederationError(f"{place}: {error.message}") from error
    except FedRAIError:
        raise
    except Exception as error:
        raise FederationError(f"{place} fails: {type(error).__name__}: {error}") from error
    check_values(adapter, f"{place}:", "correct [defence] settings, or the package")
    return Outcome(adapter, outcome.report, outcome.cost)


def _copy(adapter: AdapterState) -> AdapterState:
    return {name: tensor.clone() for name, tensor in adapter.items()}
