"""The section of clients and rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedrai.recipe.base import Section


class Federation(Section):
    """Clients and rounds."""

    added_keys = ("weights", "weight_cap", "norm_cap")

    mode: Literal["federated", "centralised", "local"] = "federated"
    """`federated`, or a baseline: `centralised` (all rows in one place, the same number of steps), `local` (each client alone)."""
    clients: int = Field(10, ge=1)
    """Number of clients. With `partition.scheme = "files"` it is the number of files."""
    clients_per_round: int = Field(0, ge=0)
    """Clients sampled in each round; 0: all."""
    rounds: int = Field(1, ge=1)
    """Rounds of training and aggregation."""
    min_clients: int = Field(1, ge=1)
    """Usable updates that a round needs; with fewer the run stops."""
    round_timeout: float = Field(0, ge=0)
    """Seconds after which a round continues with the replies it has; 0: wait for all."""
    quorum: int = Field(0, ge=0)
    """Usable updates at which a round closes without waiting for the rest; 0: wait for all. No effect with `--engine local`: in one process clients train in turn and none is late."""

    weights: Literal["rows", "tokens", "uniform"] = "rows"
    """What a client weighs in the mean: its rows, the tokens of its rows that count in the loss, or as much as any other. Rows and tokens are those that it trains on, after its filter."""
    weight_cap: float = Field(10, ge=0)
    """Most that a client's rows (or tokens, by `weights`) weigh in the mean, as a multiple of the median of the other clients' in that round; with three or more updates, no client outweighs all others together. 0: no limit, the stated numbers count. Applies where clients may lie about their number of rows: on a deployment, and with `[attack]`; in one process without an attack the server knows it. 10 leaves room for real differences in size."""
    norm_cap: float = Field(3, ge=0)
    """Largest norm of a client's update (the change of all adapter weights, measured by the server), as a multiple of the median of the other clients' norms in that round; a longer one is scaled down to it before aggregation. 0: no limit. Applies where `weight_cap` does. 3 leaves room for clients with more steps (`local_epochs`)."""

    @property
    def sampled(self) -> int:
        """Clients a round."""
        return min(self.clients_per_round or self.clients, self.clients)

    @model_validator(mode="after")
    def _counts_fit(self) -> Federation:
        if self.clients_per_round > self.clients:
            raise ValueError("clients_per_round must not be larger than clients")
        if self.mode == "federated" and self.min_clients > self.sampled:
            raise ValueError("min_clients must not be larger than the clients of a round")
        if self.mode == "federated" and self.quorum > self.sampled:
            raise ValueError("quorum must not be larger than the clients of a round")
        if 0 < self.quorum < self.min_clients:
            raise ValueError("quorum must not be smaller than min_clients")
        return self
