"""Aggregation: Flower's strategies where Flower has them, one file each for what it lacks.

`Aggregator` runs only the arithmetic of a strategy, `aggregate_train`; sampling, waiting and the
round loop are in `server.py`. Updates are sorted by client name, so their order of arrival has no
effect. Server state (momentum, second moments) is saved as arrays. The conditions of robust rules
are checked against the updates that arrived, which Flower does not do.

Beside the algorithm a rule says what becomes of LoRA's two factors: see `lora.py`.

A built-in algorithm needs: an entry in `_STRATEGIES` (its arithmetic in a file of this package if
Flower lacks it), a section with its settings in `recipe/aggregation.py` and, if it is robust, the
number of updates that it needs in `recipe/robust.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from fedrai import plugins
from fedrai.errors import FederationError
from fedrai.federation import protocol
from fedrai.federation.aggregation.aggregation_error import aggregation_error
from fedrai.federation.aggregation.factors import Factors
from fedrai.federation.aggregation.qfedavg import QFedAvg
from fedrai.federation.aggregation.scaffold import Variates
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Update
from fedrai.model.adapters import AdapterState
from fedrai.model.parts import Part
from fedrai.recipe import robust
from fedrai.recipe.aggregation import RULE_PLUGINS
from fedrai.recipe.lora import ALL_RANKS, MEANS, Ranks

MOMENTS = ("m_t", "v_t")  # FedOpt's state, dicts of arrays
VECTOR = "momentum_vector"  # FedAvgM's, a list of arrays
VARIATES = "variates"  # SCAFFOLD's, of all clients together
OWN = "own"  # of an installed package's strategy, arrays by name
ROBUST_HINT = (
    "`fedrai run --resume` asks the missing clients again; or start a new run with a longer"
    " federation.round_timeout, a higher federation.quorum, or other values of malicious,"
    " trim or selected in [aggregation]"
)
TOO_LARGE = "a lower aggregation.eta or server_learning_rate, or a robust rule"
VARIATES_HINT = "set federation.norm_cap; or the learning rates may be too small to divide by"

logging.getLogger("flwr").setLevel(logging.WARNING)


def build(
    algorithm: str,
    lora: str = "plain",
    ranks: Ranks = ALL_RANKS,
    *,
    seed: int = 0,
    variates: Variates | None = None,
    **settings: Any,
) -> Aggregator:
    """An aggregator by its name in the recipe.

    Args:
        algorithm: "fedavg", "fedadam", "krum" ...
        lora: what becomes of LoRA's factors, as in the recipe.
        ranks: the ranks that clients train.
        seed: the recipe's.
        variates: the server's control variate, which "scaffold" needs.
        settings: the fields of its section in the recipe.

    Raises:
        FederationError: there is no such algorithm.
        DependencyError: it is an installed package's, which cannot be used.
    """
    if algorithm not in _STRATEGIES:
        return _build_installed(algorithm, settings.get("settings", {}))
    return Aggregator(
        _STRATEGIES[algorithm](settings),
        lambda count: robust.update_count_problem(algorithm, settings, count),
        variates,
        Factors(lora, ranks, seed),
        is_mean=algorithm in (*MEANS, "scaffold"),
    )


def _build_installed(name: str, settings: Mapping[str, Any]) -> Aggregator:
    """The rule of an installed package: a Flower strategy, which may object to too few updates.

    Raises:
        FederationError: there is no such rule, or what the package returns is not one.
        DependencyError: the package cannot be used.
    """
    if name not in plugins.names(RULE_PLUGINS):
        raise FederationError(
            f"no aggregation {name!r}; there are: {', '.join(_STRATEGIES)}",
            hint=plugins.installed(RULE_PLUGINS),
        )
    strategy = plugins.make(RULE_PLUGINS, name, **settings)
    if not callable(getattr(strategy, "aggregate_train", None)):
        raise FederationError(
            f"the plug-in {name!r} of {plugins.package(RULE_PLUGINS, name)} is not a Flower"
            " strategy: it has no method aggregate_train",
            hint="see docs/extending.md",
        )
    return Aggregator(strategy, getattr(strategy, "objection", lambda _count: ""))


_STRATEGIES: Mapping[str, Any] = {
    "fedavg": lambda s: flower.FedAvg(),
    "fedprox": lambda s: flower.FedAvg(),  # the proximal term is the client's; the mean is FedAvg's
    "fedavgm": lambda s: flower.FedAvgM(
        server_learning_rate=s["server_learning_rate"], server_momentum=s["server_momentum"]
    ),
    "fedadam": lambda s: flower.FedAdam(
        eta=s["eta"], beta_1=s["beta_1"], beta_2=s["beta_2"], tau=s["tau"]
    ),
    "fedyogi": lambda s: flower.FedYogi(
        eta=s["eta"], beta_1=s["beta_1"], beta_2=s["beta_2"], tau=s["tau"]
    ),
    "fedadagrad": lambda s: flower.FedAdagrad(eta=s["eta"], tau=s["tau"]),
    "scaffold": lambda s: flower.FedAvg(),  # the rest is `Variates` and the client's
    "qfedavg": lambda s: QFedAvg(s["q"], s["lipschitz"], s.get("cap", 0.0)),
    "median": lambda s: flower.FedMedian(),
    "trimmed-mean": lambda s: flower.FedTrimmedAvg(beta=s["trim"]),
    "krum": lambda s: flower.Krum(num_malicious_nodes=s["malicious"]),
    "multi-krum": lambda s: flower.MultiKrum(
        num_malicious_nodes=s["malicious"], num_nodes_to_select=s["selected"]
    ),
    "bulyan": lambda s: flower.Bulyan(num_malicious_nodes=s["malicious"]),
}


class Aggregator:
    """The arithmetic of one Flower strategy.

    Args:
        strategy: Flower's.
        objection: the reason why a number of updates is too few; empty: it is enough.
        variates: the server's control variate; None: the rule has none.
        lora: what becomes of LoRA's factors; None: each is aggregated by itself.
        is_mean: whether the result is the weighted mean of the updates.
    """

    def __init__(
        self,
        strategy: Any,
        objection: Callable[[int], str] = lambda _count: "",
        variates: Variates | None = None,
        lora: Factors | None = None,
        is_mean: bool = False,
    ) -> None:
        self.strategy, self._objection, self.variates = strategy, objection, variates
        self._lora, self._is_mean = lora or Factors(), is_mean
        strategy.weighted_by_key = WEIGHT
        strategy.arrayrecord_key = protocol.ADAPTER

    def aggregate(
        self, round_: int, current: AdapterState, updates: Mapping[str, Update]
    ) -> AdapterState:
        """The next global adapter.

        Args:
            round_: number of the round, from 1.
            current: the global adapter that the clients started from.
            updates: usable updates by client name.

        Raises:
            FederationError: there is no update or none that weighs anything, there are too few for
                a robust rule, or the strategy returns none or values that are not finite or too
                large to be sent.
        """
        if not updates:
            raise FederationError(f"round {round_}: no update to aggregate")
        updates = {name: u for name, u in updates.items() if u.metrics[WEIGHT] != 0}
        if not updates:
            raise FederationError(f"round {round_}: the total weight of the updates is 0")
        if objection := self._objection(len(updates)):
            raise FederationError(
                f"round {round_}: {objection}; {len(updates)} arrived"
                f" ({', '.join(sorted(updates))})",
                hint=ROBUST_HINT,
            )
        if (combined := self._lora.combine(round_, current, updates)) is not None:
            check_values(combined, f"round {round_}: the aggregated", TOO_LARGE)
            return combined
        frozen = self._lora.frozen(round_, current)
        self._set_current(_without(current, frozen))
        used = [WEIGHT, *getattr(self.strategy, "numbers", ())]
        replies = [_message(updates[name], frozen, used) for name in sorted(updates)]
        try:
            arrays, _ = self.strategy.aggregate_train(round_, replies)
        except Exception as error:
            raise FederationError(f"round {round_}: aggregation failed: {error}") from error
        if arrays is None:
            raise FederationError(f"round {round_}: the strategy aggregated nothing")
        adapter = {**{name: current[name] for name in frozen}, **_to_tensors(arrays, round_)}
        if self.variates is not None:
            self.variates.advance(round_, current, updates)
            place = f"round {round_}: the control variate"
            check_values(self.variates.common(current), place, VARIATES_HINT)
        return adapter

    def part(self, round_: int, client: str) -> Part:
        """What of the adapter a client trains in a round."""
        return self._lora.part(round_, client)

    def start(self, current: AdapterState, part: Part) -> AdapterState:
        """What a client that trains a part starts from, of the global adapter."""
        return self._lora.start(current, part)

    def error(
        self, aggregate: AdapterState, start: AdapterState, updates: Mapping[str, Update]
    ) -> dict[str, float] | None:
        """How far an aggregate is from the mean of products; see `aggregation_error`.

        None where the mean is not what the algorithm computes.
        """
        if not self._is_mean:
            return None
        chosen = [updates[name] for name in sorted(updates)]
        weights = [update.metrics[WEIGHT] for update in chosen]
        return aggregation_error(aggregate, start, [u.adapter for u in chosen], weights)

    def _set_current(self, current: AdapterState) -> None:
        """Give the strategy the adapter that updates are relative to."""
        if isinstance(self.strategy, flower.FedAvgM | QFedAvg):
            self.strategy.current_arrays = _by_name(current)
        elif hasattr(self.strategy, "current_arrays"):
            self.strategy.current_arrays = {n: current[n].numpy() for n in sorted(current)}

    def state(self) -> dict[str, torch.Tensor]:
        """The server state between rounds, flat; empty for strategies that keep none."""
        state: dict[str, torch.Tensor] = {}
        for kind in MOMENTS:
            for name, array in (getattr(self.strategy, kind, None) or {}).items():
                state[f"{kind}/{name}"] = torch.from_numpy(np.array(array))
        for number, array in enumerate(getattr(self.strategy, VECTOR, None) or []):
            state[f"{VECTOR}/{number:06d}"] = torch.from_numpy(np.array(array))
        if callable(own := getattr(self.strategy, "state", None)):
            state |= {f"{OWN}/{n}": torch.from_numpy(np.array(a)) for n, a in own().items()}
        if self.variates is not None:
            state |= {f"{VARIATES}/{n}": part for n, part in self.variates.state().items()}
        return state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore a state of `state`."""
        for kind in MOMENTS:
            part = {
                k.split("/", 1)[1]: v.numpy() for k, v in state.items() if k.startswith(f"{kind}/")
            }
            if part:
                setattr(self.strategy, kind, part)
        vector = [state[key].numpy() for key in sorted(state) if key.startswith(f"{VECTOR}/")]
        if vector:
            setattr(self.strategy, VECTOR, vector)
        own = {k.removeprefix(f"{OWN}/"): v.numpy() for k, v in state.items() if k.startswith(OWN)}
        if own:
            self.strategy.restore(own)
        if self.variates is not None:
            start = f"{VARIATES}/"
            self.variates.restore(
                {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            )


def _without(adapter: AdapterState, names: Collection[str]) -> AdapterState:
    return {name: tensor for name, tensor in adapter.items() if name not in names}


def _message(update: Update, frozen: Collection[str], used: Sequence[str]) -> Message:
    """A reply as Flower's strategies expect it, without a connection.

    Args:
        update: a client's.
        frozen: tensors that it did not train, which are left out.
        used: numbers that the strategy uses; Flower wants the same ones of all clients.
    """
    numbers = {name: value for name, value in update.metrics.items() if name in used}
    arrays = _by_name(_without(update.adapter, frozen))
    content = RecordDict({protocol.ADAPTER: arrays, protocol.METRICS: MetricRecord(numbers)})
    nowhere = Metadata(0, "", 0, 0, "", "", 0.0, 0.0, MessageType.TRAIN)
    return Message(content, metadata=nowhere)


def _by_name(adapter: AdapterState) -> ArrayRecord:
    """Float32 arrays by name, in the order of the names."""
    arrays = {name: np.ascontiguousarray(adapter[name].float().numpy()) for name in sorted(adapter)}
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _to_tensors(arrays: ArrayRecord, round_: int) -> AdapterState:
    adapter = {
        name: torch.from_numpy(np.asarray(arrays[name].numpy(), dtype=np.float32).copy())
        for name in sorted(arrays)
    }
    check_values(adapter, f"round {round_}: the aggregated", TOO_LARGE)
    return adapter


def check_values(adapter: AdapterState, place: str, hint: str) -> None:
    """Raise unless all values are finite and small enough to be sent; `place` begins the error.

    Raises:
        FederationError: names the tensor.
    """
    for name, tensor in adapter.items():
        if not bool(torch.isfinite(tensor).all()):
            raise FederationError(f"{place} {name} is not finite")
        if bool((tensor.abs() > protocol.LARGEST_VALUE).any()):
            raise FederationError(
                f"{place} {name} holds values above"
                f" {protocol.LARGEST_VALUE:g}, which clients would refuse",
                hint=hint,
            )
