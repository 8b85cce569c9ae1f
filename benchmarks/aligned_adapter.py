"""Put an adapter that `fedrai align` made into the package: bfloat16, in shards of below 2 MB.

    python benchmarks/aligned_adapter.py ALIGNED src/fedrai/data/embedded/aligned

ALIGNED is the folder that `fedrai align --out` wrote. The card is written by hand.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from fedrai.model import read_adapter
from fedrai.model.adapters import save_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("aligned", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    files = save_shards(given.target, read_adapter(given.aligned / "adapter"), torch.bfloat16)
    shutil.copyfile(
        given.aligned / "adapter" / "adapter_config.json", given.target / "adapter_config.json"
    )
    size = sum(file.stat().st_size for file in files)
    print(f"{given.target}: {len(files)} shards, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
