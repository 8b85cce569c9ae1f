"""The updates of a bank and the attacks made of them by arithmetic, for `vetting.py`.

Every update is a sum over a basis, the bank's changes and some unit noises, so that the inner
products of any round follow from those of the basis. What a score reads of one update alone (the
margins of the model with it, its alignment with the gradients, its singular values) is computed
once for each and kept in `variants.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from fedrai import recipe
from fedrai.constitution.probe import ProbeResult
from fedrai.federation.attacks.arithmetic import noisy
from fedrai.federation.run import preparation
from fedrai.federation.run.vetting import budget_of, contrast_rows, probe_requests
from fedrai.federation.vetting import spectral
from fedrai.federation.vetting.functional import Functional
from fedrai.federation.vetting.gradient import Gradient
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.model import AdapterState
from vetting_bank import read_bank

ROUND = 10
NOISES = 8
SCALE = 10.0


@dataclass
class Variant:
    """One update: its kind, its weights over the basis, and what is known of it alone."""

    name: str
    attack: str  # "honest", or the attack
    weights: np.ndarray
    alone: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bank:
    """The variants, the inner products of the basis, and the scores that read the model."""

    variants: list[Variant]
    products: torch.Tensor
    reader: Functional
    taker: Gradient

    def of(self, attack: str) -> list[Variant]:
        """The updates of an attack, or of honest clients."""
        return [one for one in self.variants if one.attack == attack]

    def round(self, chosen: Sequence[Variant]) -> RoundUpdates:
        """A round in whose memory everything is that the scores would compute."""
        chosen = sorted(chosen, key=lambda one: one.name)
        names = [one.name for one in chosen]
        weights = torch.from_numpy(np.stack([one.weights for one in chosen]))
        products = weights @ self.products @ weights.T
        norms = products.diagonal().clamp(min=1e-300).sqrt()
        units = products / norms[:, None] / norms[None, :]
        memory: dict[Any, Any] = {"products": (names, products), "functional": None}
        memory |= {("functional", None): _margins((0.0, 0.0)), "gradient": None}
        memory |= {("dnc", number): (names, units) for number in range(5)}  # all coordinates
        for one in chosen:
            memory[("spectral", one.name)] = torch.tensor(one.alone["spectral"]).double()
            memory[("functional", one.name)] = _margins(one.alone["margins"])
            memory[("gradient", one.name)] = tuple(one.alone["along"])
        start = {"weights": torch.empty(4_884_480, device="meta")}
        return RoundUpdates(1, 0, start, {name: {} for name in names}, memory=memory)


def _margins(sides: Sequence[float]) -> ProbeResult:
    return ProbeResult((sides[0],), (sides[1],), 0, 0.0, 0.0)


def attacks(names: Sequence[str], norms: Mapping[str, float]) -> Iterator[Variant]:
    """Every update as weights over [the bank's changes, unit noises]."""
    place = {name: number for number, name in enumerate(names)}
    middle = median(norm for name, norm in norms.items() if name.startswith("honest"))

    def variant(name: str, attack: str, parts: Mapping[int, float]) -> Variant:
        weights = np.zeros(len(names) + NOISES)
        weights[list(parts)] = list(parts.values())
        return Variant(name, attack, weights)

    for name in names:
        kind, number = name.split("-")
        own, noise = place[name], len(names) + (int(number) - 1) % NOISES
        yield variant(name, kind, {own: 1.0})
        if kind == "harmful":
            first = "harmful-01"
            yield variant(f"{name}-scaled", "scaled", {own: SCALE})
            yield variant(f"{name}-norm", "norm-matched", {own: middle / norms[name]})
            yield variant(f"{name}-colluding", "colluding",
                          {place[first]: 1.0, noise: 0.01 * norms[first]})  # fmt: skip
        if kind == "honest" and int(number) <= NOISES:
            yield variant(f"{name}-flipped", "sign-flip", {own: -1.0})
            yield variant(f"{name}-noise", "noise", {noise: norms[name]})
            yield variant(f"{name}-free", "free-rider", {noise: 0.005 * norms[name]})


def make_bank(folder: Path) -> Bank:
    """The variants of a bank; what each has alone is computed where it is not known yet."""
    start, adapters, notes = read_bank(folder)
    names = sorted(adapters)
    keys = sorted(start)
    changes = [torch.cat([(adapters[n][k] - start[k]).flatten() for k in keys]) for n in names]
    zero = {"x": torch.zeros_like(changes[0])}
    changes += [noisy(zero, 1.0, torch.Generator().manual_seed(n))["x"] for n in range(NOISES)]
    basis = torch.stack(changes)
    products = (basis @ basis.T).double()
    norms = {name: float(products[i, i].sqrt()) for i, name in enumerate(names)}
    settings = recipe.load(Path("quickstart"), ['vetting.action="record"'])
    lm = preparation.load_model(settings)
    section = settings.vetting
    requests = probe_requests(section, settings.seed_for("vetting-requests"))
    reader = Functional(lm, requests, budget_of(section, "functional"))
    taker = Gradient(lm, contrast_rows(lm, settings), budget_of(section, "gradient"))
    bank = Bank(list(attacks(names, norms)), products, reader, taker)
    operations = median(note["operations"] for note in notes.values())
    _fill(bank, basis, start, operations, folder / "variants.json")
    return bank


def _fill(
    bank: Bank, basis: torch.Tensor, start: AdapterState, operations: float, file: Path
) -> None:
    known = json.loads(file.read_text()) if file.is_file() else {}
    names = [str(number) for number in range(ROUND)]
    whole = RoundUpdates(1, 0, start, dict.fromkeys(names, start), operations)
    rows = bank.reader._rows(whole)
    print(
        f"{len(rows.harmful)} requests a side, {bank.taker._count(whole)} rows a kind", flush=True
    )
    for one in bank.variants:
        if one.name not in known:
            adapter = _adapter(torch.from_numpy(one.weights).float() @ basis, start)
            updates = RoundUpdates(1, 0, start, {one.name: adapter}, memory=whole.memory)
            whole.once("gradient", lambda: bank.taker._directions(whole))
            result = bank.reader._read(updates, rows, adapter)
            before = whole.once("before", lambda: bank.reader._read(whole, rows, start))
            sides = (fmean(side) for side in (result.harmful, result.harmless))
            firsts = (fmean(side) for side in (before.harmful, before.harmless))
            known[one.name] = {
                "margins": [side - first for side, first in zip(sides, firsts, strict=True)],
                "along": list(bank.taker._along(updates, one.name)),
                "spectral": spectral._of_client(updates, one.name).tolist(),
            }
            file.write_text(json.dumps(known))
            print(one.name, known[one.name]["margins"], known[one.name]["along"], flush=True)
        one.alone = known[one.name]


def _adapter(change: torch.Tensor, start: AdapterState) -> AdapterState:
    keys = sorted(start)
    parts = change.split([start[k].numel() for k in keys])
    return {k: start[k] + part.view_as(start[k]) for k, part in zip(keys, parts, strict=True)}
