"""The privacy of a round, from `round.json`, and what the run has cost until then."""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.runs.record.values import Json, as_count, as_number, word


@dataclass(frozen=True, slots=True)
class PrivacyRecord:
    """The guarantee after one round.

    Attributes:
        noise: who adds it: "server" or "client".
        clip: largest norm of an update.
        multiplier: deviation of the noise, by `clip`.
        deviation: that of the noise on each weight of the mean.
        epsilon: cost of all rounds so far, for the client that was asked most often; None: not
            finite.
        delta: of the guarantee.
        releases: rounds of that client.
        amplified: whether it counts on secret samples.
        secret: whether the noise came from a secret; otherwise from the recipe's seed, and whoever
            knows that can compute it.
        exact: whether clients sent exact numbers beside their updates.
    """

    noise: str
    clip: float | None
    multiplier: float | None
    deviation: float | None
    epsilon: float | None
    delta: float | None
    releases: int
    amplified: bool
    secret: bool
    exact: bool

    @classmethod
    def from_json(cls, body: Json) -> PrivacyRecord | None:
        """The privacy of a round; None where the run has no noise."""
        if not body:
            return None
        return cls(
            word(body, "noise"),
            as_number(body.get("clip")),
            as_number(body.get("noise_multiplier")),
            as_number(body.get("deviation")),
            as_number(body.get("epsilon")),
            as_number(body.get("delta")),
            as_count(body.get("releases")) or 0,
            body.get("amplified") is True,
            body.get("secret") is True,
            body.get("exact_numbers") == "send",
        )

    @property
    def cost(self) -> str:
        """The pair in words: "epsilon 2.94, delta 1e-05"."""
        epsilon = "no finite epsilon" if self.epsilon is None else f"epsilon {self.epsilon:.3g}"
        return f"{epsilon}, delta {self.delta:g}" if self.delta is not None else epsilon

    @property
    def text(self) -> str:
        """One line: the cost, whom it protects from, and what it does not cover."""
        against = {
            "server": "against whoever receives the model",
            "client": "of each client, also against the server",
        }.get(self.noise, "")
        amplified = ", if nobody knows who was sampled" if self.amplified else ""
        exact = "; clients' exact numbers are outside of it" if self.exact else ""
        return f"{self.cost} {against}{amplified}{exact}{self.caveat}"

    @property
    def caveat(self) -> str:
        """That noise from the seed protects nobody; empty: it came from a secret."""
        if self.secret:
            return ""
        return "; the noise follows from the recipe's seed: an experiment, it protects nobody"
