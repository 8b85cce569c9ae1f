"""Whether `fedrai verify` finds every change to a signed release: 1,000 random ones, a few seconds.

python benchmarks/mutations.py RELEASE PUB [PUB ...]
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fedrai.release.verifying import verify

TRIES = 1000
KINDS = ("byte changed", "byte added", "byte lost", "file added", "file missing", "files swapped")


def main() -> None:
    release, keys = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    found: Counter[str] = Counter()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(release, Path(place) / "copy"))
        assert not verify(copy, keys).problems, "the release is not good to begin with"
        files = sorted(file for file in copy.rglob("*") if file.is_file())
        for number in range(TRIES):
            kind, pair = KINDS[number % len(KINDS)], draw.sample(files, 2)
            found[f"{kind}: tries"] += 1
            found[f"{kind}: found"] += is_found(copy, keys, kind, pair, draw)
        assert not verify(copy, keys).problems, "the release was not put back"
    for line, count in sorted(found.items()):
        print(f"{count:5} {line}")


def is_found(
    copy: Path, keys: list[Path], kind: str, pair: list[Path], draw: random.Random
) -> bool:
    """Make a change, verify, and undo it."""
    bodies = [file.read_bytes() for file in pair]
    extra = pair[0].with_name(f"{draw.randrange(10**9)}-{pair[0].name}")
    _change(kind, pair, bodies, extra, draw)
    problems = verify(copy, keys).problems
    extra.unlink(missing_ok=True)
    for file, body in zip(pair, bodies, strict=True):
        file.write_bytes(body)
    return bool(problems)


def _change(
    kind: str, pair: list[Path], bodies: list[bytes], extra: Path, draw: random.Random
) -> None:
    body, place = bytearray(bodies[0]), draw.randrange(len(bodies[0]))
    if kind == "file added":
        extra.write_bytes(body)
    elif kind == "file missing":
        pair[0].unlink()
    elif kind == "files swapped":
        pair[0].write_bytes(bodies[1])
        pair[1].write_bytes(bodies[0])
    else:
        if kind == "byte changed":
            body[place] ^= draw.randrange(1, 256)
        elif kind == "byte added":
            body.insert(place, draw.randrange(256))
        else:
            del body[place]
        pair[0].write_bytes(body)


if __name__ == "__main__":
    main()
