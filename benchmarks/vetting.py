"""How well vetting tells malicious clients from honest ones, and what honest clients have.

Takes banks of `vetting_bank.py`, draws rounds of ten with 10 to 50 % malicious clients, judges them
as the server does, and prints by attack and score the area under the ROC curve (AUROC) over all
clients of all rounds, and the share of honest clients that would be set aside.

    python benchmarks/vetting.py BANK --test OTHER_BANK --out vetting.json --write-honest FILE

Honest tails are measured on the honest clients of BANK in rounds without an attack, and nothing
else. `--test` names a bank of other honest clients (other domains and languages), whose share set
aside is the honest figure. The formulas were chosen on `harmful` and `scaled`; a first version was
then changed for what it missed of `noise`, `free-rider`, `sign-flip` and `colluding` in rounds with
half of the clients malicious, and the number of tokens of the gradient was chosen with `mixed` and
`backdoor` in sight. So no attack here is untouched ground.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

import common  # noqa: F401  (quiet)
from fedrai.federation.vetting.combining import Honest, Tail, relative, shipped
from fedrai.federation.vetting.distance import distance
from fedrai.federation.vetting.dnc import dnc
from fedrai.federation.vetting.foolsgold import foolsgold
from fedrai.federation.vetting.scores import Score, reference
from fedrai.federation.vetting.spectral import spectral
from fedrai.federation.vetting.verdicts import judge_clients
from vetting_variants import ROUND, Bank, Variant, make_bank

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
DEVELOPMENT = ("harmful", "scaled")
DEFAULT = ("distance", "foolsgold", "functional", "gradient", "progress")
MEASURED = ("distance", "dnc", "foolsgold", "spectral", "gradient", "functional")
"""Scores whose tails are measured; that of `progress` follows from chance."""
TAILS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
LIMIT = 0.02
Sides = tuple[list[float], list[float]]
"""Numbers of malicious and of honest clients."""


def scores_of(bank: Bank) -> dict[str, Score]:
    plain = [distance(), dnc(), foolsgold(), spectral()]
    return {
        s.name: s for s in (*plain, bank.reader.score, bank.taker.gradient, bank.taker.progress)
    }


def draw(bank: Bank, attack: str, malicious: int, rng: random.Random) -> list[Variant]:
    """A round: malicious clients, and honest ones that they are not made of."""
    bad = rng.sample(bank.of(attack), malicious) if malicious else []
    parents = {one.name.rsplit("-", 1)[0] for one in bad}
    rest = [one for one in bank.of("honest") if one.name not in parents]
    return [*bad, *rng.sample(rest, ROUND - malicious)]


def tails(bank: Bank, rounds: int, seed: int) -> dict[str, Honest]:
    """Honest floors and tails of every score, from rounds without an attack."""
    rng, scores = random.Random(seed), scores_of(bank)
    drawn = [bank.round(draw(bank, "", 0, rng)) for _ in range(rounds)]
    honest = dict(shipped())
    for name in MEASURED:
        parts = [scores[name].measure(one) for one in drawn]
        floor = float(np.median([reference(list(part.values()))[1] for part in parts]))
        z = [value for part in parts for value in relative(part, floor).values()]
        alone = tail([v for part in parts for v in part.values()]) if name == "functional" else None
        honest[name] = Honest(floor, tail(z), alone)
    return honest


def tail(values: Sequence[float]) -> Tail:
    """The upper half of a distribution; beyond the last entry it falls as its upper tenth does."""
    array = np.sort(np.array(values))
    points = [float(np.quantile(array, 1 - share)) for share in TAILS]
    excess = float((array[array > points[2]] - points[2]).mean())
    beyond = max(points[-1], points[2] + excess * np.log(TAILS[2] / 1e-4))
    kept = [(points[0], 1.0)]
    for point, share in [*zip(points[1:], TAILS[1:], strict=True), (beyond, 1e-4)]:
        if point > kept[-1][0] + 1e-3:
            kept.append((point, share))
    return Tail(tuple(value for value, _ in kept), tuple(share for _, share in kept))


def judge(
    bank: Bank, chosen: Sequence[Variant], honest: Mapping[str, Honest], names: Sequence[str]
) -> dict[str, float]:
    """The suspicion of each client of a round."""
    scores = [scores_of(bank)[name] for name in names]
    verdicts = judge_clients(bank.round(chosen), scores, honest, LIMIT, frozenset())
    return {name: one.suspicion or 1.0 for name, one in verdicts.items()}


def measure_attack(
    bank: Bank, attack: str, honest: Mapping[str, Honest], rounds: int
) -> dict[str, Any]:
    """AUROC by score, with an interval over rounds, and the shares of both kinds set aside."""
    rng, scores = random.Random(attack), scores_of(bank)
    rows: list[dict[str, Sides]] = []
    for number in range(rounds):
        chosen = draw(bank, attack, round(SHARES[number % 5] * ROUND), rng)
        bad = {one.name for one in chosen if one.attack == attack}
        updates = bank.round(chosen)
        sides = {name: split(score.measure(updates), bad) for name, score in scores.items()}
        for label, names in (("combined", DEFAULT), ("all scores", tuple(scores))):
            p = judge(bank, chosen, honest, names)
            sides[label] = split({n: -float(np.log10(v)) for n, v in p.items()}, bad)
        rows.append(sides)
    limit = -float(np.log10(LIMIT))
    combined = [one["combined"] for one in rows]
    return {
        **{name: interval([one[name] for one in rows], rng) for name in rows[0]},
        "by share": {s: round(pooled(combined[at::5]), 3) for at, s in enumerate(SHARES)},
        "caught": round(fmean(v >= limit for bad, _ in combined for v in bad), 3),
        "honest set aside": round(fmean(v >= limit for _, good in combined for v in good), 4),
    }


def split(values: Mapping[str, float], bad: set[str]) -> Sides:
    return ([v for n, v in values.items() if n in bad],
            [v for n, v in values.items() if n not in bad])  # fmt: skip


def pooled(pairs: Sequence[Sides]) -> float:
    return auroc([v for bad, _ in pairs for v in bad], [v for _, good in pairs for v in good])


def auroc(bad: Sequence[float], good: Sequence[float]) -> float:
    """The chance that a malicious client has the higher number; ties count half."""
    b, g = np.array(bad)[:, None], np.array(good)[None, :]
    return float((b > g).mean() + 0.5 * (b == g).mean())


def interval(pairs: Sequence[Sides], rng: random.Random) -> list[float]:
    """AUROC, and its 95 % interval by drawing rounds again."""
    draws = sorted(pooled(rng.choices(pairs, k=len(pairs))) for _ in range(100))
    return [round(v, 3) for v in (pooled(pairs), draws[2], draws[97])]


def set_aside(bank: Bank, honest: Mapping[str, Honest], rounds: int, seed: int) -> dict[str, Any]:
    """The share of honest clients set aside without an attack, by client, and its interval."""
    rng = random.Random(seed)
    caught: dict[str, list[bool]] = {}
    for _ in range(rounds):
        for name, p in judge(bank, draw(bank, "", 0, rng), honest, DEFAULT).items():
            caught.setdefault(name, []).append(p <= LIMIT)
    shares = {name: fmean(values) for name, values in sorted(caught.items())}
    draws = sorted(fmean(rng.choices(list(shares.values()), k=len(shares))) for _ in range(200))
    return {
        "share": round(fmean(v for values in caught.values() for v in values), 4),
        "interval over clients": [round(draws[5], 4), round(draws[194], 4)],
        "clients": {name: round(share, 3) for name, share in shares.items() if share},
    }


def to_toml(honest: Mapping[str, Honest]) -> str:
    lines = [
        "# What honest clients have, by score: written by benchmarks/vetting.py.",
        "# floor: range of a round's reference half below which it counts as this.",
        "# relative, absolute: [number, share of honest clients that reach it], rising.",
    ]
    for name, one in honest.items():
        lines += ["", f"[scores.{name}]", f"floor = {one.floor:.4g}"]
        for kind in ("relative", "absolute"):
            if (part := getattr(one, kind)) is not None:
                pairs = zip(part.values, part.shares, strict=True)
                lines.append(f"{kind} = [{', '.join(f'[{v:.5g}, {s:g}]' for v, s in pairs)}]")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("--test", type=Path, help="a bank of other honest clients")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--shipped", action="store_true", help="use the tables that FedRAI ships")
    parser.add_argument("--write-honest", type=Path, help="write the honest tails here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bank = make_bank(args.bank)
    honest = dict(shipped()) if args.shipped else tails(bank, 400, 1)
    body: dict[str, Any] = {"own bank": set_aside(bank, honest, args.rounds, 2)}
    if args.test:
        body["other bank"] = set_aside(make_bank(args.test), honest, args.rounds, 2)
    print(json.dumps(body, indent=1), flush=True)
    names = sorted({one.attack for one in bank.variants} - {"honest"})
    for attack in names:
        body[attack] = measure_attack(bank, attack, honest, args.rounds)
        kind = "development" if attack in DEVELOPMENT else "outside"
        print(f"{attack} ({kind})", json.dumps(body[attack]), flush=True)
    outside = {name: body[name]["combined"][0] for name in names if name not in DEVELOPMENT}
    body["outside"] = {"mean": round(fmean(outside.values()), 3), "worst": min(outside.values())}
    print(json.dumps(body["outside"]))
    if args.out:
        args.out.write_text(json.dumps(body, indent=1))
    if args.write_honest:
        args.write_honest.write_text(to_toml(honest))


if __name__ == "__main__":
    main()
