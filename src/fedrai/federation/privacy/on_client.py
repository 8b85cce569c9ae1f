"""A client's part: clip and noise before an update is sent, and no exact numbers beside it.

On a node the noise comes from the node's own secret, which no server knows, and every reply that
could be a new release is written down first. A server that asks twice for a round gets the same
bits if the client trained to the same bits; otherwise the reply counts again, and beyond the node's
own limit nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedrai.federation.metrics import WEIGHT
from fedrai.federation.privacy.ledger import Release, Releases, of_one
from fedrai.federation.privacy.mechanism import noised_mean
from fedrai.federation.privacy.secret import Secret
from fedrai.federation.protocol import Task
from fedrai.model.adapters import AdapterState
from fedrai.recipe.privacy import Privacy

Numbers = Mapping[str, float]
Protect = Callable[[str, Task, AdapterState, Numbers], tuple[AdapterState, Numbers]]
"""Makes of a client's trained adapter and numbers what may be sent."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A node's own account of what it has sent, over all runs.

    Attributes:
        releases: the node's file.
        run: names the run.
        limit: largest epsilon; 0: none, it is only counted.
        delta: of the guarantee.
        refuse: raises the refusal.
    """

    releases: Releases
    run: str
    limit: float
    delta: float
    refuse: Callable[[], None]

    def spend(self, number: int, digest: str, multiplier: float) -> None:
        """Write a reply down, or refuse it."""
        release = Release(self.run, number, digest, multiplier)
        spent = of_one(self.releases.with_(release), self.delta) if self.limit else 0.0
        if spent > self.limit:
            self.refuse()
        self.releases.add(release)


@dataclass(frozen=True, slots=True)
class Protection:
    """A `Protect`.

    Attributes:
        settings: the recipe's section.
        multiplier: deviation of the noise, by `clip`.
        secret: what the client's noise is drawn from.
        budget: the node's account; None: the client has none, as in one process.
    """

    settings: Privacy
    multiplier: float
    secret: Secret
    budget: Budget | None = None

    def __call__(
        self, client: str, task: Task, adapter: AdapterState, numbers: Numbers
    ) -> tuple[AdapterState, Numbers]:
        """Clip and noise the update where the client does that, and withhold exact numbers."""
        adapters = {"start": task.adapter, "update": adapter}
        digest = self.secret.digest(client, task.round, adapters=adapters)
        if self.budget is not None:
            self.budget.spend(task.round, digest, self.multiplier)
        if self.settings.exact_numbers == "withhold":
            numbers = {WEIGHT: 1}  # the protocol needs it, and all weigh alike
        if self.settings.noise == "server":
            return adapter, numbers
        trained = [name for name in adapter if task.part.trains(name)]
        noised = noised_mean(
            task.adapter, [adapter], trained,
            clip=self.settings.clip, multiplier=self.multiplier,
            key=self.secret.key(client, task.round, digest),
        )  # fmt: skip
        return noised, numbers
