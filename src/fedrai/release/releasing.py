"""`fedrai release`: judge a run, and write the release of the round that passes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fedrai import recipe
from fedrai.errors import RecipeError, ReleaseError
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.recipe.sections import Release
from fedrai.recipe.toml_files import read_toml
from fedrai.release.asking import Asker
from fedrai.release.deciding import Decision, decide
from fedrai.release.evidence import Facts
from fedrai.release.signature import read_private
from fedrai.release.writing import write_release
from fedrai.runs import RunFolder, check_free
from fedrai.runs.record import read

DECIDED = "release-decision"
"""The event of a decision in a run."""


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """How a run is released.

    Attributes:
        bars: TOML file with `[release]`, in place of the recipe's; None: the recipe's.
        budget: most items of each outside set; None: as the bars say.
        merged: release the whole model, with the adapter merged in.
        keys: private keys that sign it.
        serial: serial number; None: the time, as YYYYMMDDHHMMSS.
        base: spec of the base model, if it has moved since the run.
    """

    bars: Path | None = None
    budget: int | None = None
    merged: bool = False
    keys: tuple[Path, ...] = ()
    serial: int | None = None
    base: str = ""


def release(
    path: Path, out: Path, options: ReleaseOptions, observer: Observer = SILENT
) -> Decision:
    """Judge a run and, if a round passes, write its release.

    Args:
        path: the run folder.
        out: the new release folder; nothing is written where no round passes.
        options: bars, keys and form.
        observer: is told of the progress.

    Raises:
        ReleaseError: the run has nothing to judge, or a key or the bars cannot be used.
        FedRAIError: the run, its model or an outside set cannot be used.
    """
    check_free(out)
    folder = RunFolder.open(path)
    settings, run = recipe.load(folder.recipe_file), read(folder)
    bars = bars_of(settings.release, options)
    signers = [read_private(file) for file in options.keys]
    if settings.federation.mode == "local":
        raise ReleaseError("a run in local mode has a model for each client, and none to release")
    if run.after is None:
        raise ReleaseError(f"no round of {path} was evaluated, so there is nothing to judge")
    asker = Asker(path, settings.seed, options.base, observer)
    decision = decide(folder, run, bars, asker if bars.budget else None, settings.seed)
    with folder.lock():
        folder.event(
            DECIDED, round=decision.released and decision.released.number, line=decision.line
        )
    if decision.released is None:
        return decision
    now = datetime.now(UTC)
    serial = int(f"{now:%Y%m%d%H%M%S}") if options.serial is None else options.serial
    facts = Facts(
        run, settings.model_dump(mode="json"), folder.info, bars, decision, decision.released,
        asker.ledger, serial, now, options.merged,
    )  # fmt: skip
    write_release(path, out, facts, options.base, signers)
    return decision


def bars_of(own: Release, options: ReleaseOptions) -> Release:
    """The bars of a consortium's file, or the recipe's.

    Raises:
        RecipeError: the file cannot be read, or a value in it is not allowed.
    """
    bars = own if options.bars is None else read_bars(options.bars)
    return bars if options.budget is None else bars.model_copy(update={"budget": options.budget})


def read_bars(file: Path) -> Release:
    """The bars in a consortium's file: a table `[release]` and nothing else.

    Raises:
        RecipeError: it cannot be read, or a value in it is not allowed.
    """
    try:
        table = read_toml(file)
    except OSError as error:
        raise RecipeError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{file} is not TOML ({error})") from error
    if list(table) != ["release"]:
        raise RecipeError(f"{file} needs a table [release] and nothing else")
    try:
        return Release.model_validate(table["release"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("release", *first["loc"])))
        raise RecipeError(f"{file}: {key}: {first['msg']}") from error
