"""Wall time of federated rounds against the bare local training of the same tokens.

The federated side is the whole run: messages through Flower's types, checks, aggregation, adapters
and events on disk. The bare side calls the local loop for the same clients, seeds and steps.
No evaluation on either side.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import common
from fedrai import recipe
from fedrai.federation.round import sample_clients
from fedrai.federation.run import local, preparation
from fedrai.runs import RunFolder
from fedrai.training.sft import train


def bare(prepared: preparation.PreparedRun) -> float:
    settings = prepared.recipe
    adapter = prepared.model.fresh_adapter(0)
    start = time.perf_counter()
    for number in range(1, settings.federation.rounds + 1):
        names = sample_clients(
            list(prepared.rows), settings.federation.sampled, settings.seed, number
        )
        for name in names:
            train(
                prepared.model,
                adapter,
                prepared.rows[name],
                preparation.sft_settings(settings, len(prepared.rows[name])),
                seed=settings.seed_for("training", number, name),
            )
    return time.perf_counter() - start


def federated(prepared: preparation.PreparedRun) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(
            Path(folder) / "run", recipe.to_toml(prepared.recipe), prepared.info()
        )
        start = time.perf_counter()
        local.execute(prepared, run, preparation.Callbacks())
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    settings = recipe.load(
        Path("quickstart"),
        ["federation.rounds=2", "federation.clients_per_round=2", "evaluation.advbench=0",
         "evaluation.ordinary=0"],
    )  # fmt: skip
    prepared = local.prepare(recipe.arm(settings, "clean"))
    bare(prepared)
    pairs = [(federated(prepared), bare(prepared)) for _ in range(args.pairs)]
    common.report(
        "two federated rounds", [a for a, _ in pairs], "bare training", [b for _, b in pairs], "s"
    )


if __name__ == "__main__":
    main()
