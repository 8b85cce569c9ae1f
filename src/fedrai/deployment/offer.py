"""The offer: what a recipe asks of clients, written by the server and checked by the client.

The client does not trust it: the recipe's sections validate it, paths of the server's machine are
not used, guards are named only, and only those that the node itself names are accepted. The node's
policy decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedrai import __version__
from fedrai.errors import RecipeError
from fedrai.federation.client import RefusedTaskError
from fedrai.federation.privacy.accounting import epsilon_of
from fedrai.federation.protocol import Reason
from fedrai.recipe.preference import KINDS, Method
from fedrai.recipe.sections import (
    LABELS,
    Filter,
    Node,
    NodePolicy,
    Offer,
    OfferedModel,
    Privacy,
    Recipe,
    Source,
)
from fedrai.recipe.sources import RowKind

FILTERS = ("drop", "replace")


def make_offer(recipe: Recipe, fingerprint: str, run: str = "", multiplier: float = 0) -> str:
    """The document for clients: canonical JSON, identical for identical recipes.

    Args:
        recipe: the recipe.
        fingerprint: fingerprint of the server's copy of the base model.
        run: identifies the run, for clients that keep a state of it.
        multiplier: noise multiplier of the run; 0: that of the recipe.

    Raises:
        RecipeError: clients on other machines cannot run the recipe.
    """
    _check_separable(recipe)
    model = OfferedModel(
        fingerprint=fingerprint,
        **recipe.model.model_dump(exclude={"device"}),
        **recipe.adapter.model_dump(exclude={"start", "ranks"}),
    )
    offer = Offer(
        fedrai=__version__,
        seed=recipe.seed,
        rounds=recipe.federation.rounds,
        max_length=recipe.data.max_length,
        on_bad_rows=recipe.data.on_bad_rows,
        proximal_mu=getattr(recipe.aggregation, "proximal_mu", 0.0),
        needs=recipe.needed_numbers,
        variates=_hash(run) if recipe.has_variates else "",
        run=_hash(run) if recipe.privacy.active or recipe.messages.has_residuals else "",
        privacy=_privacy(recipe, multiplier),
        messages=recipe.messages,
        model=model,
        training=recipe.training,
        filter=recipe.filter,
    )
    return json.dumps(offer.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _hash(run: str) -> str:
    return hashlib.sha256(run.encode()).hexdigest()


def _privacy(recipe: Recipe, multiplier: float) -> Privacy:
    """The section with the multiplier that is used; the server's own limit is its own affair."""
    section = recipe.privacy
    if not section.active:
        return Privacy()
    used = multiplier or section.noise_multiplier
    kept = {"noise_multiplier": used, "epsilon": 0.0} if used else {}
    return section.model_copy(update=kept)


def check_honest(recipe: Recipe) -> None:
    """Check that a recipe has no malicious clients.

    Raises:
        RecipeError: it has.
    """
    if recipe.attack.active:
        raise RecipeError(
            "[attack] is for experiments in one process only: a deployment has no malicious"
            " clients by recipe",
            hint="use --engine local, or remove the section",
        )


def _check_separable(recipe: Recipe) -> None:
    """Check that clients on their own machines can run a recipe.

    Raises:
        RecipeError: they cannot.
    """
    check_honest(recipe)
    problems = {
        'federation.mode = "centralised" pools rows, but on a deployment they stay on their nodes':
            recipe.federation.mode == "centralised",
        'filter.guard = "labels" is for experiments in one process': _uses(recipe, LABELS),
        "filter.calibration is a file of this machine; set filter.threshold to a number":
            bool(recipe.filter.calibration),
        'filter.on_guard_failure = "continue" would train without a filter, unnoticed':
            recipe.filter.mode != "off" and recipe.filter.on_guard_failure == "continue",
        "adapter.ranks: on a deployment the order of the clients' names is not known before they"
        " join; name them, or give one rank for all":
            isinstance(recipe.adapter.ranks, list) and len(recipe.adapter.ranks) > 1,
        "filter.refusals is a file of this machine, which the nodes do not have":
            bool(recipe.filter.refusals),
        'training.dpo.reference = "start" is adapter.start, which an offer does not hold; use'
        ' "round"':
            recipe.training.method != "sft" and recipe.training.dpo.reference == "start"
            and bool(recipe.adapter.start),
        f"defence.method: {', '.join(recipe.defence.on_clients)} works in the clients' training,"
        " with the start or rows that an offer does not hold": bool(recipe.defence.on_clients),
    }  # fmt: skip
    for problem, applies in problems.items():
        if applies:
            raise RecipeError(problem, hint="see docs/deployment.md, or use --engine local")


def _uses(recipe: Recipe, guard: str) -> bool:
    return recipe.filter.mode != "off" and recipe.filter.guard == guard


def read_offer(document: str) -> Offer:
    """Validate an offer's document.

    Raises:
        RefusedTaskError: it comes from another version of the package, or is not an offer.
    """
    try:
        table: Any = json.loads(document)
    except (ValueError, RecursionError):
        raise RefusedTaskError(Reason.BAD_OFFER) from None
    if not isinstance(table, dict) or not isinstance(table.get("fedrai"), str):
        raise RefusedTaskError(Reason.BAD_OFFER)
    if table["fedrai"] != __version__:
        raise RefusedTaskError(Reason.OTHER_VERSION)
    try:
        return Offer.model_validate(table)
    except ValidationError:
        raise RefusedTaskError(Reason.BAD_OFFER) from None


def check_offer(offer: Offer, node: Node) -> None:
    """Check an offer against a node's policy, before anything is loaded.

    Raises:
        RefusedTaskError: the policy does not allow it; has the first reason.
    """
    for reason, applies in _objections(offer, node).items():
        if applies:
            raise RefusedTaskError(reason)


def _objections(offer: Offer, node: Node) -> Mapping[Reason, bool]:
    policy, filter_ = node.policy, offer.filter
    training, filters = offer.training, filter_.mode in FILTERS
    kinds = {source.rows for source in node.data.sources}
    return {
        Reason.MODEL_REFUSED: bool(policy.base_models)
        and offer.model.base not in policy.base_models,
        Reason.TOO_MANY_STEPS: not training.local_epochs  # else the node's rows decide
        and too_many_steps(training.round_steps, policy),
        Reason.TOO_MANY_ROUNDS: 0 < policy.max_rounds < offer.rounds,
        Reason.BATCH_TOO_LARGE: 0 < policy.max_batch_size < training.batch_size,
        Reason.ROWS_TOO_LONG: 0 < policy.max_length < offer.max_length,
        Reason.FILTER_REQUIRED: (policy.filter == "required" and not _filters_all(filter_))
        or (filter_.mode != "off" and filter_.on_guard_failure == "continue"),
        Reason.GUARD_REFUSED: filter_.mode != "off" and not _is_guard_allowed(filter_, node),
        Reason.JUDGE_REFUSED: filters and bool(policy.judge) and filter_.judge not in policy.judge,
        Reason.THRESHOLD_REFUSED: filters and _surely_higher(filter_.threshold, policy),
        Reason.NUMBERS_REFUSED: not set(offer.needs) <= set(policy.send),
        Reason.MESSAGES_REFUSED: policy.messages == "float32" and offer.messages.is_lossy,
        Reason.OTHER_ROWS: not kinds & set(KINDS[training.method]),
        Reason.PRIVACY_REFUSED: not is_private_enough(offer, policy),
    }


def is_private_enough(offer: Offer, policy: NodePolicy) -> bool:
    """Whether the noise of a run is what the policy wants, over all its rounds.

    The node counts by itself: it is asked in every round, with no amplification. With noise on the
    server it relies on the server to add it.
    """
    settings = offer.privacy
    if not settings.active:
        return policy.privacy == "any" and not policy.max_epsilon
    if policy.privacy == "client" and settings.noise != "client":
        return False
    if not settings.noise_multiplier:
        return False
    if not policy.max_epsilon:
        return True
    cost = epsilon_of({settings.noise_multiplier: offer.rounds}, policy.delta)
    return cost <= policy.max_epsilon


def too_many_steps(steps: int, policy: NodePolicy) -> bool:
    """Whether a round has more optimiser steps than the policy allows."""
    return 0 < policy.max_local_steps < steps


def _surely_higher(threshold: str | float, policy: NodePolicy) -> bool:
    """Whether a threshold is too high, whatever the guard's own thresholds are."""
    bound = policy.threshold_at_most
    both = not isinstance(threshold, str) and not isinstance(bound, str)
    return both and float(threshold) > float(bound)


def _filters_all(filter_: Filter) -> bool:
    """Whether every row that is trained on has passed a guard."""
    strict = filter_.on_guard_failure == "stop" and filter_.unscored == "drop"
    return filter_.mode in FILTERS and strict


def _is_guard_allowed(filter_: Filter, node: Node) -> bool:
    """Whether the node accepts a guard: one that it names itself, or the embedded one.

    The guard's name decides which weights judge the node's rows. So a hub model is accepted only if
    the node's policy has exactly the same name, with its commit (`recipe.node.Node`).
    """
    if filter_.guard == LABELS or filter_.calibration or filter_.refusals:
        return False
    return filter_.guard in node.allowed_guards


def needs_guard(filter_: Filter, policy: NodePolicy) -> bool:
    """Whether the guard's own thresholds are needed to tell if a filter's is too high."""
    bound = policy.threshold_at_most
    named = isinstance(filter_.threshold, str) or isinstance(bound, str)
    surely_fine = filter_.threshold in ("strict", bound) if isinstance(bound, str) else bound >= 1
    return filter_.mode in FILTERS and named and not surely_fine


def check_threshold(number: float, own: Mapping[str, float], policy: NodePolicy) -> None:
    """Check the threshold of a filter against the policy.

    Args:
        number: the threshold.
        own: the guard's, by name; every guard has `strict` and `loose`.
        policy: the node's.

    Raises:
        RefusedTaskError: it is too high.
    """
    bound = policy.threshold_at_most
    if number > (own[bound] if isinstance(bound, str) else bound):
        raise RefusedTaskError(Reason.THRESHOLD_REFUSED)


def recipe_for(offer: Offer, node: Node, folder: Path) -> Recipe:
    """A recipe of this node alone: the offer's training and filter on the node's rows.

    Args:
        offer: checked.
        node: the node's own file.
        folder: folder to which the paths of its data are relative.
    """
    model = offer.model.model_dump()
    method, kinds = _method_for(offer, node)
    sources = [
        _resolve(source, folder).model_dump()
        for source in node.data.sources
        if source.rows in kinds
    ]
    adapter = {key: model.pop(key) for key in ("rank", "alpha", "dropout", "target_modules")}
    del model["fingerprint"]
    algorithm = "scaffold" if offer.variates else "fedprox" if offer.proximal_mu else "fedavg"
    weights = "tokens" if "label-tokens" in offer.needs else "rows"
    weights = "uniform" if offer.privacy.active else weights
    return Recipe.model_validate(
        {
            "name": node.name,
            "seed": offer.seed,
            "model": {**model, "device": node.device},
            "adapter": adapter,
            "data": {
                "sources": sources,
                "max_length": offer.max_length,
                "on_bad_rows": offer.on_bad_rows,
            },
            "filter": offer.filter.model_dump(),
            "messages": offer.messages.model_dump(),
            "privacy": offer.privacy.model_dump(),
            "training": offer.training.model_dump() | {"method": method},
            "federation": {"clients": 1, "rounds": offer.rounds, "weights": weights},
            "aggregation": {"algorithm": algorithm}
            | ({"proximal_mu": offer.proximal_mu} if offer.proximal_mu else {}),
            "guards": {name: table.model_dump() for name, table in node.guards.items()},
        }
    )


def _method_for(offer: Offer, node: Node) -> tuple[Method, tuple[RowKind, ...]]:
    """The offer's method as far as the node has rows for it, and the kinds of these rows."""
    held = {source.rows for source in node.data.sources}
    kinds = tuple(kind for kind in KINDS[offer.training.method] if kind in held)
    method = next(method for method, needed in KINDS.items() if needed == kinds)
    return method, kinds


def _resolve(source: Source, folder: Path) -> Source:
    """A source whose path, if it is a file, is resolved from the node's folder."""
    file = folder / Path(source.path).expanduser()
    return source.model_copy(update={"path": str(file)}) if file.exists() else source
