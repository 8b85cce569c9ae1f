"""The server's part of differential privacy in a round: noise on the mean, and the account.

Where the clients add the noise, only the account is kept: what arrives is noised already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.errors import FederationError
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.privacy.ledger import (
    Release,
    Releases,
    of_most_asked,
    of_secret_samples,
    to_json,
)
from fedrai.federation.privacy.mechanism import noised_mean
from fedrai.federation.privacy.secret import Secret
from fedrai.federation.protocol import Update
from fedrai.model.adapters import AdapterState
from fedrai.recipe.privacy import Privacy

MEAN = "mean"  # names the noised mean, which is aggregated in the place of the updates
TOLERANCE = 1e-6  # of the search for a noise multiplier
SENT = "sent"  # digest of a round in which clients add the noise: their messages are the release


class Guarantee:
    """What one run promises, and what its rounds have cost.

    Args:
        settings: the recipe's section.
        releases: what the run has published.
        multiplier: deviation of the noise, by `clip`.
        secret: what the noise and, with amplification, the samples are drawn from.
    """

    def __init__(
        self, settings: Privacy, releases: Releases, multiplier: float, secret: Secret
    ) -> None:
        self.settings, self._releases = settings, releases
        self._multiplier, self._secret = multiplier, secret
        self._round = Release("", 0, "", multiplier)

    @property
    def hides(self) -> bool:
        """Whether numbers that follow from single updates are not recorded."""
        return self.settings.noise == "server" and self.withholds

    @property
    def withholds(self) -> bool:
        """Whether clients send no numbers beside their updates."""
        return self.settings.exact_numbers == "withhold"

    def sampling_seed(self, seed: int) -> int:
        """The seed of the rounds' samples: the recipe's, unless samples must stay secret."""
        hidden = self.settings.amplification and not self._secret.public
        return self._secret.seed("sampling") if hidden else seed

    def begin(self, number: int, asked: Sequence[str], present: int) -> None:
        """A round begins, in which clients are asked."""
        self._round = Release("", number, SENT, self._multiplier, tuple(asked), present)
        if self.settings.noise == "client":
            self._releases.add(self._round)

    def exceeded(self, number: int, asked: Sequence[str], present: int) -> str:
        """Why a round may not begin; empty: it may."""
        planned = Release("", number, SENT, self._multiplier, tuple(asked), present)
        known = any(one.round == number for one in self._releases.all)
        return self._too_much(self._releases.all if known else self._releases.with_(planned))

    def _too_much(self, releases: Sequence[Release]) -> str:
        limit, (cost, _) = self.settings.epsilon, self._cost(releases)
        if not limit or cost <= limit * (1 + TOLERANCE):
            return ""
        return (
            f"round {releases[-1].round} would raise the privacy cost to epsilon {cost:.4g} (delta"
            f" {self.settings.delta:g}), and privacy.epsilon allows {limit:g}"
        )

    def noised(
        self,
        start: AdapterState,
        updates: Mapping[str, Update],
        trained: Sequence[str],
    ) -> Mapping[str, Update]:
        """What is aggregated: the noised mean in the place of the updates.

        Args:
            start: the adapter that clients started from.
            updates: the usable ones, by client.
            trained: names of the tensors that clients train.

        Raises:
            FederationError: there is no update, or a repeated round is too much.
        """
        if self.settings.noise == "client":
            return updates
        if not updates:
            raise FederationError("no update to add noise to")
        adapters = {name: updates[name].adapter for name in sorted(updates)}
        number = self._round.round
        digest = self._secret.digest(number, adapters={**adapters, "": start})
        self._round = Release(
            "", number, digest, self._multiplier, self._round.asked, self._round.present
        )
        if why := self._too_much(self._releases.with_(self._round)):
            raise FederationError(why, hint="the round was repeated with other updates")
        self._releases.add(self._round)
        mean = noised_mean(
            start, list(adapters.values()), trained,
            clip=self.settings.clip, multiplier=self._multiplier,
            key=self._secret.key(number, digest),
        )  # fmt: skip
        return {MEAN: Update(mean, {WEIGHT: 1.0})}

    def take(self, number: int, record: Mapping[str, Any]) -> None:
        """Count a round that another run has made with the same updates and noise.

        Args:
            number: the round.
            record: its `round.json`.
        """
        own = record["privacy"]
        asked = tuple(sorted({*record["clients"], *record["set_aside"]}))
        self._round = Release(
            "", number, str(own["digest"]), self._multiplier, asked, int(own["present"])
        )
        self._releases.add(self._round)

    def record(self, updates: int) -> dict[str, Any]:
        """The guarantee after the round, for `round.json`.

        Args:
            updates: number of updates in the mean.
        """
        settings = self.settings
        cost, releases = self._cost(self._releases.all)
        spread = self._multiplier * settings.clip
        return {
            "noise": settings.noise,
            "clip": settings.clip,
            "noise_multiplier": self._multiplier,
            "deviation": spread / updates if settings.noise == "server" else spread / updates**0.5,
            "updates": updates,
            "releases": releases,
            "epsilon": cost,
            "delta": settings.delta,
            "amplified": settings.amplification,
            "secret": not self._secret.public,
            "exact_numbers": settings.exact_numbers,
            **to_json(self._round),
        }

    def _cost(self, releases: Sequence[Release]) -> tuple[float, int]:
        """Epsilon of releases, and how many of them count for one client."""
        of = of_secret_samples if self.settings.amplification else of_most_asked
        return of(releases, self.settings.delta)
