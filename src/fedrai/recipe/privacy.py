"""The section of differential privacy: what noise hides, and what it does not combine with.

The arithmetic and the accounting are in `federation/privacy/`; docs/privacy.md explains both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from fedrai.recipe.base import Section
from fedrai.recipe.lora import PRODUCTS

PRIVATE_RULES = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad")
"""Algorithms that need no more of the updates than their mean."""
WHY_NOT = {
    "scaffold": "keeps a control variate of each client, which is computed of its single update",
    "qfedavg": "weighs updates by the clients' exact losses",
}
"""Why an algorithm does not go with noise; the others compare or choose single updates."""


class Privacy(Section):
    """Differential privacy of the clients: noise hides what one client's data changes."""

    noise: Literal["off", "server", "client"] = "off"
    """Who clips updates and adds noise. `server`: the server, to their mean; members trust it with single updates. `client`: every client, to its own update before it is sent; the noise of the mean is larger by the root of the number of updates."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of a client's update (the change of all weights that it trains, together); a longer one is scaled down to it. It takes the place of `federation.norm_cap` and `weight_cap` with `noise = "server"`. A value near the usual norm of updates loses little."""
    noise_multiplier: float = Field(0.0, ge=0)
    """Standard deviation of the noise as a multiple of `clip`: of that on the sum of a round's updates (`server`), or on one update (`client`). 0: found before the run, so that all rounds together cost `epsilon`."""
    epsilon: float = Field(0.0, ge=0)
    """Most that the whole run may cost. With a `noise_multiplier` the run stops before the round that would exceed it; 0: no limit."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The delta of (epsilon, delta); must be below 1 / clients, better far below."""
    amplification: bool = False
    """`server`: count on it that nobody who gets the model knows which clients were sampled in a round (`federation.clients_per_round`). Then a deployment draws them from the server's own secret. Off: a client pays for the rounds in which it was asked."""
    exact_numbers: Literal["withhold", "send"] = "withhold"
    """Numbers of a client that carry no noise: rows, losses, filter counts, tokens, times, norms of updates. `withhold`: none is sent or recorded. `send`: they are, outside the guarantee, which the card then says."""

    @property
    def active(self) -> bool:
        """Whether there is noise."""
        return self.noise != "off"

    @model_validator(mode="after")
    def _noise_is_set(self) -> Privacy:
        if self.active and not (self.noise_multiplier or self.epsilon):
            raise ValueError("noise needs a noise_multiplier, or an epsilon to find it for")
        if self.amplification and self.noise == "client":
            raise ValueError(
                'amplification: with noise = "client" the guarantee is one against the server,'
                " which knows whom it asked"
            )
        return self


def problem(
    privacy: Privacy,
    *,
    mode: str,
    weights: str,
    clients: int,
    algorithm: str,
    lora: str,
    ranks: bool,
    vetting: str,
    waits: bool,
) -> str:
    """Why a recipe cannot have this noise with the rest of it; empty: it can.

    Args:
        privacy: the section.
        mode: `federation.mode`.
        weights: `federation.weights`.
        clients: number of clients; 0: not known.
        algorithm: `aggregation.algorithm`.
        lora: `aggregation.lora`.
        ranks: whether clients have ranks of their own.
        vetting: `vetting.action`.
        waits: whether a round waits for all sampled clients.
    """
    if not privacy.active:
        return ""
    checks: Sequence[str] = (
        _federation_problem(privacy, mode, weights, clients, waits),
        _rule_problem(privacy.noise, algorithm, lora, ranks),
        _vetting_problem(privacy, vetting),
    )
    return next((text for text in checks if text), "")


def _federation_problem(
    privacy: Privacy, mode: str, weights: str, clients: int, waits: bool
) -> str:
    if mode != "federated":
        return f'privacy.noise: federation.mode = "{mode}" has no updates of several clients'
    if weights != "uniform":
        return (
            f'privacy.noise: with federation.weights = "{weights}" a client\'s own data decides how'
            ' much its update counts, and noise does not hide that; set it to "uniform"'
        )
    if clients and privacy.delta * clients >= 1:
        return (
            f"privacy.delta = {privacy.delta:g} is not below 1 / {clients} clients: to publish the"
            " data of a client drawn by chance would satisfy it"
        )
    if privacy.amplification and not waits:
        return (
            "privacy.amplification: with federation.quorum or round_timeout the fastest clients"
            " decide who is in a round, and how fast one is depends on its data"
        )
    return ""


def _rule_problem(noise: str, algorithm: str, lora: str, ranks: bool) -> str:
    if algorithm not in PRIVATE_RULES:
        reason = WHY_NOT.get(algorithm, "works on single updates, not on their mean")
        return f"privacy.noise: {algorithm} {reason}; use {', '.join(PRIVATE_RULES)}"
    if ranks:
        return "privacy.noise: with adapter.ranks noise would fall on ranks that a client does not have"
    if noise == "server" and lora in PRODUCTS:
        return (
            f'privacy.noise: aggregation.lora = "{lora}" needs the factors of single clients; use'
            ' ffa, rolora or plain, or noise = "client"'
        )
    return ""


def _vetting_problem(privacy: Privacy, vetting: str) -> str:
    if vetting == "off":
        return ""
    if privacy.noise == "client":
        return (
            "vetting.action: scores are measured on honest updates without noise, and with"
            ' privacy.noise = "client" the server sees no others'
        )
    if vetting != "record":
        return (
            f'vetting.action = "{vetting}": whether an update counts would depend on the others, so'
            " that one client could change more of the mean than privacy.clip allows"
        )
    if privacy.exact_numbers == "withhold":
        return (
            'vetting.action = "record": scores of single updates carry no noise; set'
            ' privacy.exact_numbers = "send" to record them outside the guarantee'
        )
    return ""
