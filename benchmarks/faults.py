"""What a deployment's faults look like: a SuperLink and two nodes on loopback, spoilt one by one.

    python benchmarks/faults.py [FAULT ...]

Prints a row for each fault: what was done, what the operator saw, what came of it. The faults are
those of `tests/helpers/scenarios.py`, with a tiny random model; the test extra is needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import common  # noqa: F401 (quiet)

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))


def main() -> None:
    from fedrai.testing import make_tiny_model
    from scenarios import ALL, place

    asked = sys.argv[1:] or [fault.__name__ for fault in ALL]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["FEDRAI_CACHE"] = str(home / "cache")
        print("| fault | seen | outcome |\n|---|---|---|", flush=True)
        with place(home / "place", make_tiny_model(home / "tiny")) as here:
            for fault in ALL:
                if fault.__name__ in asked:
                    seen = fault(here)
                    print(f"| {seen.fault} | {seen.shown} | {seen.outcome} |", flush=True)


if __name__ == "__main__":
    main()
