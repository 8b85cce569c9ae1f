"""What has been published with noise, and what that costs: a list of releases in a JSON file.

A release is written down before it is used. A round that is repeated after a kill or after damage
is the same release if its updates, and with them its noise, are the same to the bit; otherwise both
count, since both may have been seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedrai.errors import RunError
from fedrai.federation.privacy.accounting import amplified_epsilon, epsilon_of
from fedrai.runs.files import json_text, parse_json, write_text


@dataclass(frozen=True, slots=True)
class Release:
    """Something published that depends on clients' data, with its noise.

    Attributes:
        run: the run; empty in a run's own file.
        round: its round.
        digest: names the updates without telling them (`Secret.digest`).
        multiplier: deviation of the noise, by the limit on an update's norm.
        asked: clients whose data may be in it; empty in a node's own file.
        present: clients that they were drawn from.
    """

    run: str
    round: int
    digest: str
    multiplier: float
    asked: tuple[str, ...] = ()
    present: int = 0

    @property
    def identity(self) -> tuple[object, ...]:
        """The same for the same bits of the same clients."""
        return self.run, self.round, self.digest, self.asked


class Releases:
    """The releases in a file.

    Args:
        file: need not exist.

    Raises:
        RunError: it is damaged.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.all: tuple[Release, ...] = _read(file)

    def add(self, release: Release) -> None:
        """Write a release down, unless it is there.

        Raises:
            RunError: the file cannot be written.
        """
        self.all = self.with_(release)
        body = {"releases": [asdict(one) for one in self.all]}
        try:
            write_text(self._file, json_text(body))
        except OSError as error:
            raise RunError(f"cannot write {self._file}: {error.strerror}") from error

    def with_(self, release: Release) -> tuple[Release, ...]:
        """The releases and one more, unless it is among them."""
        known = any(one.identity == release.identity for one in self.all)
        return self.all if known else (*self.all, release)


def _read(file: Path) -> tuple[Release, ...]:
    if not file.is_file():
        return ()
    try:
        entries = parse_json(file.read_bytes())["releases"]
        return tuple(Release(**{**one, "asked": tuple(one["asked"])}) for one in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} cannot be read ({type(error).__name__}), and without it what was published"
            " cannot be counted",
            hint="restore it from a copy",
        ) from error


def of_one(releases: Sequence[Release], delta: float) -> float:
    """Epsilon of all releases for a client that is in all of them."""
    return epsilon_of(_by_multiplier(releases), delta)


def of_most_asked(releases: Sequence[Release], delta: float) -> tuple[float, int]:
    """Epsilon of the client that is in most releases, and their number."""
    counts = Counter(name for one in releases for name in one.asked)
    worst = {
        name: epsilon_of(_by_multiplier([r for r in releases if name in r.asked]), delta)
        for name in sorted(counts)
    }
    return max(worst.values(), default=0.0), max(counts.values(), default=0)


def of_secret_samples(releases: Sequence[Release], delta: float) -> tuple[float, int]:
    """Epsilon where samples are secret, and the number of releases.

    With several releases of one round, which share a sample, nothing is gained by sampling.
    """
    numbers = Counter(one.round for one in releases)
    multipliers = {one.multiplier for one in releases}
    if max(numbers.values(), default=0) > 1 or len(multipliers) != 1:
        return epsilon_of(_by_multiplier(releases), delta), len(releases)
    samples = [(one.present, len(one.asked)) for one in releases]
    return amplified_epsilon(multipliers.pop(), samples, delta), len(releases)


def _by_multiplier(releases: Sequence[Release]) -> Mapping[float, int]:
    return Counter(one.multiplier for one in releases)


def to_json(release: Release) -> dict[str, Any]:
    """What `round.json` holds of a release beside its client names, which stand there anyway."""
    return {"digest": release.digest, "present": release.present}
