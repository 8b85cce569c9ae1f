"""Differential privacy of a prepared run: the server's guarantee, and the clients' protection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from fedrai.errors import RecipeError
from fedrai.federation.privacy import accounting, secret
from fedrai.federation.privacy.guarantee import Guarantee
from fedrai.federation.privacy.ledger import Releases
from fedrai.federation.privacy.on_client import Protection
from fedrai.federation.privacy.secret import Secret
from fedrai.federation.round import sample_clients
from fedrai.federation.run.preparation import PreparedRun
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

RELEASES = "privacy.json"
KEY = "private/noise.key"
"""The server's secret of a deployment, in the run folder."""
DEPLOYED = "flower"


def guarantee(prepared: PreparedRun, run: RunFolder) -> Guarantee | None:
    """The server's part; None: the recipe has no noise.

    Raises:
        RunError: the run's account or secret cannot be used.
    """
    settings = prepared.recipe.privacy
    if not settings.active:
        return None
    releases = Releases(run.path / RELEASES)
    source = _secret(prepared, run)
    return Guarantee(settings, releases, multiplier_of(prepared, releases), source)


def check(recipe: Recipe, clients: Collection[str] = ()) -> None:
    """Check before a run starts that its noise can be found and counted.

    Args:
        recipe: its recipe.
        clients: names of all clients; empty: not known.

    Raises:
        DependencyError: dp-accounting is missing.
        RecipeError: delta is too large for so many clients.
    """
    if recipe.privacy.active:
        accounting.load()
        planned_multiplier(recipe, clients)


def _secret(prepared: PreparedRun, run: RunFolder) -> Secret:
    """The seed in one process; on a deployment, whose members know it, a secret of the server."""
    source = _public(prepared.recipe)
    if prepared.engine != DEPLOYED:
        return source
    by_server = prepared.recipe.privacy.noise == "server"  # else each node has its own
    return secret.in_file(run.path / KEY) if by_server else replace(source, public=False)


def _public(recipe: Recipe) -> Secret:
    return secret.of_seed(recipe.seed)


def protection(prepared: PreparedRun, run: RunFolder) -> Protection | None:
    """The part of the clients of one process; None: the recipe has no noise."""
    settings = prepared.recipe.privacy
    if not settings.active:
        return None
    multiplier = multiplier_of(prepared, Releases(run.path / RELEASES))
    return Protection(settings, multiplier, _public(prepared.recipe))


def multiplier_of(prepared: PreparedRun, releases: Releases) -> float:
    """The noise multiplier: that of the run's earlier rounds, else as planned."""
    used = {one.multiplier for one in releases.all}
    return used.pop() if used else planned_multiplier(prepared.recipe, prepared.rows)


def planned_multiplier(recipe: Recipe, clients: Collection[str] = ()) -> float:
    """The noise multiplier of a run.

    Args:
        recipe: its recipe, with noise.
        clients: names of all clients; empty: not known, as on a deployment, where any of them may
            be asked in every round.

    Raises:
        DependencyError: it must be found, and dp-accounting is missing.
        RecipeError: delta is too large for so many clients.
    """
    names = sorted(clients)
    federation, privacy = recipe.federation, recipe.privacy
    count = len(names) or federation.clients
    if privacy.delta * count >= 1:
        raise RecipeError(f"privacy.delta = {privacy.delta:g} is not below 1 / {count} clients")
    drawn = min(federation.clients_per_round or count, count)
    most = _most_asked(recipe, names, drawn) if names else federation.rounds
    return accounting.planned_multiplier(privacy, federation.rounds, most, (count, drawn))


def _most_asked(recipe: Recipe, names: list[str], drawn: int) -> int:
    """Rounds of the client that is asked in most."""
    counts: Counter[str] = Counter()
    for number in range(1, recipe.federation.rounds + 1):
        counts.update(sample_clients(names, drawn, recipe.seed, number))
    return max(counts.values())
