"""How LoRA's factors are aggregated: names of the rules, ranks of clients, and what combines.

`aggregation.lora` stands beside `aggregation.algorithm`, since the two questions are independent:
the algorithm says how numbers are averaged (and moved by a server's optimiser), the rule which
numbers are averaged, factors or products. The arithmetic is in `federation/aggregation/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedrai.recipe.defence import Defence

LoraRule = Literal["plain", "ffa", "rolora", "flexlora", "raflora", "flora", "fedex"]
PRODUCTS = ("flexlora", "raflora", "flora", "fedex")
"""Rules that average products and fit factors to them anew."""
FREEZING = ("ffa", "rolora")
"""Rules by which one factor is not trained in a round."""
CARRYING = ("flora", "fedex")
"""Rules that keep in the ranks above those of the clients what these cannot hold."""
MEANS = ("fedavg", "fedprox")
"""Algorithms whose result is the weighted mean of the updates."""
MOMENTS = ("fedavgm", "fedadam", "fedyogi", "fedadagrad")
"""Algorithms that keep moments of each weight from round to round."""
OTHERS = "*"
"""In `adapter.ranks`: the clients that are not named."""
RankTable = list[int] | dict[str, int]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks that clients train.

    Attributes:
        full: the adapter's rank; 0: not known, and every client trains all of it.
        named: ranks by client.
        others: rank of a client that is not named; 0: the adapter's.
    """

    full: int = 0
    named: Mapping[str, int] = field(default_factory=dict)
    others: int = 0

    def of(self, client: str) -> int:
        """A client's rank; 0: the adapter's."""
        rank = self.named.get(client, self.others)
        return 0 if rank == self.full else rank

    @property
    def highest(self) -> int:
        """The highest rank that a client may have; 0: the adapter's."""
        ranks = [*self.named.values(), self.others]
        return 0 if not all(ranks) else max(ranks)


ALL_RANKS = Ranks()


def ranks_of(table: RankTable, full: int, clients: Sequence[str]) -> Ranks:
    """The ranks of `adapter.ranks`.

    Args:
        table: the recipe's; a list is gone through in the order of the clients' names, again and
            again.
        full: `adapter.rank`.
        clients: names of all clients; may be empty where a list has one entry.
    """
    if isinstance(table, dict):
        named = {name: rank for name, rank in table.items() if name != OTHERS}
        return Ranks(full, named, table.get(OTHERS, 0))
    if len(table) < 2:
        return Ranks(full, others=sum(table))
    cycle = {name: table[number % len(table)] for number, name in enumerate(sorted(clients))}
    return Ranks(full, cycle, max(table))


def highest(table: RankTable, full: int) -> int:
    """The highest rank that a client trains."""
    if isinstance(table, dict):
        return max([*table.values(), table.get(OTHERS, full)])
    return max(table, default=full)


def ranks_problem(table: RankTable, full: int) -> str:
    """Why these ranks cannot be; empty: they can."""
    ranks = list(table.values()) if isinstance(table, dict) else table
    if bad := [rank for rank in ranks if not 1 <= rank <= full]:
        return f"ranks: {bad[0]} is not between 1 and adapter.rank = {full}"
    return ""


def problem(
    rule: str, algorithm: str, table: RankTable, full: int, mode: str, defence: Defence, vets: bool
) -> str:
    """Why a recipe cannot have this rule with the rest of it; empty: it can.

    Args:
        rule: `aggregation.lora`.
        algorithm: `aggregation.algorithm`.
        table: `adapter.ranks`.
        full: `adapter.rank`.
        mode: `federation.mode`.
        defence: the section.
        vets: whether updates are vetted.
    """
    return (
        _mode_problem(rule, table, mode)
        or _algorithm_problem(rule, algorithm, table)
        or _held_problem(rule, table, full, defence)
        or _rest_problem(rule, table, defence, vets)
    )


def _mode_problem(rule: str, table: RankTable, mode: str) -> str:
    if mode == "local" and rule != "plain":
        return 'aggregation.lora: with federation.mode = "local" nothing is aggregated'
    if mode != "federated" and table:
        return f'adapter.ranks: federation.mode = "{mode}" has no clients of different ranks'
    return ""


def _algorithm_problem(rule: str, algorithm: str, table: RankTable) -> str:
    if rule in PRODUCTS and algorithm not in MEANS:
        return f'aggregation.lora = "{rule}" {_no_products(algorithm)}; use {_either(MEANS)}'
    if rule == "rolora" and algorithm in MOMENTS:
        return (
            f'aggregation.lora = "rolora": the moments that {algorithm} keeps would go on moving the'
            f" factor that is frozen in a round; use {_either(MEANS)}, or ffa"
        )
    if table and algorithm not in MEANS:
        return (
            "adapter.ranks: the zeros that fill up smaller ranks are no values that clients chose,"
            f" but {algorithm} would count them as such; use {_either(MEANS)}"
        )
    return ""


def _no_products(algorithm: str) -> str:
    if algorithm in MOMENTS:
        return (
            f"fits the factors anew in each round, so that the moments which {algorithm} keeps of"
            " them would no longer fit"
        )
    return (
        f"averages products of factors, and {algorithm} works on each factor's values, which mean"
        " other directions on each client"
    )


def _held_problem(rule: str, table: RankTable, full: int, defence: Defence) -> str:
    if rule not in CARRYING:
        return ""
    if highest(table, full) >= full:
        return (
            f'aggregation.lora = "{rule}" keeps what the clients\' factors cannot hold in the ranks'
            f" above theirs, and there are none: set adapter.ranks below adapter.rank = {full}, for"
            f" example adapter.ranks = [{max(1, full // 4)}]"
        )
    if defence.on_server:
        return (
            f"defence.method: {defence.on_server[0]} writes all ranks of the aggregated adapter, and"
            f' aggregation.lora = "{rule}" keeps apart those that clients train'
        )
    return ""


def _rest_problem(rule: str, table: RankTable, defence: Defence, vets: bool) -> str:
    if "asft" in defence.methods and (rule in FREEZING or rule in CARRYING):
        return (
            "defence.method: asft penalises the product of both factors, all of which clients must"
            f' train, and aggregation.lora = "{rule}" freezes a part'
        )
    if vets and table:
        return (
            "vetting.action: the scores compare updates with the whole global adapter, and with"
            " adapter.ranks clients receive or train a part of it"
        )
    return ""


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
