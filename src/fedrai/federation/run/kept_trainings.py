"""Local trainings that runs of a comparison have in common, kept in a folder.

Arms that differ only in what the server does (aggregation, vetting, defence) or in what malicious
clients send begin with the same trainings of the same clients. A training is taken over if all that
decides its result is the same: start adapter, rows, settings and seed to the bit, the model, the
versions and the machine. From the second round on the arms start from different adapters, so only
trainings of the first round are kept. Costs are those of the training that was carried out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fedrai.errors import ChecksumError, RunError
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import TrainingRow, TrainingStep, TrainResult
from fedrai.runs.files import digest_of, load_sealed, save_sealed
from fedrai.training.local import split
from fedrai.training.sft import SftSettings

MODEL_KEYS = ("model_fingerprint", "dtype", "device", "machine", "versions")
"""Keys of `run.json` that decide what a training gives, besides its arguments."""


@dataclass(frozen=True, slots=True)
class KeptTrainings:
    """Trains, or takes over what the folder has.

    Attributes:
        train: carries out a training: `training.local.train`.
        folder: holds one file a training; made when it is needed.
        context: what decides the result besides the arguments of a training.
        on_taken: called with the number of steps of each training that is taken over.
    """

    train: Callable[..., tuple[AdapterState, TrainResult]]
    folder: Path
    context: str
    on_taken: Callable[[int], None] = lambda _steps: None

    def __call__(
        self,
        model: LanguageModel,
        start: AdapterState,
        rows: Sequence[TrainingRow],
        settings: SftSettings,
        *,
        seed: int,
        on_step: Callable[[TrainingStep], None] = lambda _: None,
    ) -> tuple[AdapterState, TrainResult]:
        """The adapter and the figures of a training; arguments as of `training.local.train`."""
        if settings.first_step or not is_plain(settings):
            return self.train(model, start, rows, settings, seed=seed, on_step=on_step)
        file = self.folder / f"{_key(self.context, start, rows, settings, seed)}.safetensors"
        kept = _read(file)
        if kept is None:
            adapter, result = self.train(model, start, rows, settings, seed=seed, on_step=on_step)
            _write(file, adapter, result)
            return adapter, result
        self.on_taken(len(kept[1].losses))
        _show_steps(kept[1], on_step)
        return kept


def context(info: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """What decides a training's result besides its arguments.

    Args:
        info: the run's `run.json`.
        body: the recipe's plain values by section.
    """
    sections = {key: body[key] for key in ("model", "adapter", "training")}
    return json.dumps([{key: info.get(key) for key in MODEL_KEYS}, sections], sort_keys=True)


def is_plain(settings: SftSettings) -> bool:
    """Whether a key can tell settings apart: numbers and switches, besides the learning rate."""
    values = (getattr(settings, f.name) for f in fields(settings) if f.name != "learning_rate")
    return all(value is None or isinstance(value, int | float | str) for value in values)


def _key(
    context: str, start: AdapterState, rows: Sequence[TrainingRow], settings: SftSettings, seed: int
) -> str:
    plain = {f.name: getattr(settings, f.name) for f in fields(settings)}
    plain["learning_rate"] = [settings.learning_rate(step) for step in range(settings.steps)]
    digest = hashlib.sha256()
    for part in (context, digest_of(start), json.dumps(plain, sort_keys=True), str(seed)):
        digest.update(f"{part}\n".encode())
    for row in split(rows)[0]:  # settings with pairs are not plain
        digest.update(f"{list(row.ids)} {list(row.mask)}\n".encode())
    return digest.hexdigest()


def _read(file: Path) -> tuple[AdapterState, TrainResult] | None:
    """A kept training; None if there is none, or it is damaged."""
    with suppress(RunError, ChecksumError, OSError, ValueError, TypeError, KeyError):
        adapter, note = load_sealed(file)
        result = json.loads(note["result"])
        return adapter, TrainResult(**{**result, "losses": tuple(result["losses"])})
    return None


def _write(file: Path, adapter: AdapterState, result: TrainResult) -> None:
    """Keep a training; on a full disk it is only not kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_sealed(file, adapter, {"result": json.dumps(asdict(result))})


def _show_steps(result: TrainResult, on_step: Callable[[TrainingStep], None]) -> None:
    """Report the steps of a training that was taken over, with its mean pace."""
    steps = len(result.losses)
    for number, loss in enumerate(result.losses, 1):
        on_step(
            TrainingStep(number, steps, loss, result.tokens // steps, result.seconds / steps)
        )  # fmt: skip
