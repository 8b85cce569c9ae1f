"""One alignment of one model without a federation, as `fedrai align` does; it can be resumed.

recipe.toml           the resolved recipe
align.json            what the alignment started from, to recognise it when it is resumed
work/, kept/          the state of an unfinished alignment; `work` is removed at the end
adapter/              the aligned adapter, a PEFT folder
records.jsonl, sft.jsonl, preferences.jsonl
evaluations/before/, evaluations/after/
report.json           all figures
README.md             the card; written last, so it marks a finished alignment
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedrai import captured_log, recipe, runs
from fedrai.constitution.card import card
from fedrai.constitution.material import HARMLESS, RECORDS
from fedrai.constitution.material import read as read_material
from fedrai.constitution.outcome import Aligned, brief
from fedrai.constitution.phase import Phase
from fedrai.constitution.storing import export, write_records
from fedrai.constitution.tools import PhaseTools
from fedrai.errors import RecipeError, RunError
from fedrai.evaluation import storing
from fedrai.federation.run import aligning, moved_files, preparation, resuming
from fedrai.federation.run.evaluating import note_bad_rows
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.rows import questions_for
from fedrai.federation.run.stopping import Stop, stoppable
from fedrai.federation.run.targets import Target, target
from fedrai.federation.run.trained_suites import of_model, of_recipe
from fedrai.filter.screening import FilterOutcome
from fedrai.model import AdapterState, read_adapter
from fedrai.recipe.sections import AlignRecipe, seed_for
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of, json_text
from fedrai.runs.record.evaluations import COLUMNS, NOT_OUTSIDE, evaluation_cells, has_outside

CARD = "README.md"
NUMBER = 1  # of the only round
COPIED = (
    "name", "model", "model_fingerprint", "questions_fingerprint", "constitution", "kept_out",
    "versions", "machine", "device", "dtype",
)  # fmt: skip
"""Keys of `align.json` that are those of `run.json`."""


@dataclass(frozen=True, slots=True)
class AlignmentJob:
    """One alignment, checked and ready to start.

    Attributes:
        settings: the recipe.
        target: the model to align.
        start: the adapter that it starts from.
        prepared: the recipe as that of a run, with its model.
        tools: what the phase works with; their events go nowhere yet.
        original: the recipe with the file names from when the alignment started.
    """

    settings: AlignRecipe
    target: Target
    start: AdapterState
    prepared: preparation.PreparedRun
    tools: PhaseTools
    original: AlignRecipe

    def info(self) -> dict[str, Any]:
        """The contents of `align.json`."""
        info = self.prepared.info()
        return {
            "start": "a fresh adapter" if self.target.adapter is None else self.target.label,
            "start_sha256": digest_of(self.start),
            "recipe_hash": self.original.hash,
            **{key: info[key] for key in COPIED},
        }


def settings_of(path: Path) -> AlignRecipe:
    """The recipe of an alignment that was started.

    Raises:
        RunError: there is none.
    """
    if not (path / "align.json").is_file():
        raise RunError(f"{path} is not a folder of `fedrai align` (no align.json)")
    return recipe.load_alignment(RunFolder(path).recipe_file)


def prepare(
    settings: AlignRecipe,
    excluded: Mapping[str, str] | None = None,
    original: AlignRecipe | None = None,
    observer: Observer = SILENT,
) -> AlignmentJob:
    """Load and check everything, without writing anything.

    Args:
        settings: the recipe.
        excluded: suites kept out of the alignment data, fixed when the alignment started; None:
            those that are available now.
        original: the recipe with the file names from when the alignment started; None: `settings`.
        observer: shows downloads.

    Raises:
        RecipeError: `[adapter]` does not fit the adapter to start from.
        ConstitutionError, GuardError, DataError, ModelError, AssetError, RunError: something cannot
            be used.
    """
    run_recipe, original = settings.as_run(), original or settings
    alignment = preparation.alignment_of(run_recipe, original.as_run())
    chosen = target(
        settings.model.base,
        like=run_recipe,
        base=settings.adapter_base,
        load=lambda part, _shown, *more: preparation.load_model(part, observer.downloads, *more),
    )
    _check_adapter(settings, chosen)
    run_recipe = run_recipe.model_copy(
        update={"model": chosen.recipe.model, "adapter": chosen.recipe.adapter}
    )
    questions = questions_for(run_recipe, chosen.model, on_bad=note_bad_rows(observer))
    suites = preparation.excluded_suites(run_recipe) if excluded is None else excluded
    prepared = preparation.PreparedRun(
        run_recipe, chosen.model, {}, {}, (), questions, FilterOutcome(), alignment, excluded=suites
    )
    tools = aligning.tools_for(
        prepared, lambda _kind, **_fields: None, chosen.adapter, observer.downloads
    )
    fresh = chosen.model.fresh_adapter(seed_for(settings.seed, "adapter"))
    return AlignmentJob(settings, chosen, chosen.adapter or fresh, prepared, tools, original)


def _check_adapter(settings: AlignRecipe, chosen: Target) -> None:
    """Check that the keys of `[adapter]` that were set are those of the existing adapter."""
    for key in settings.adapter.model_fields_set:
        value, actual = (getattr(part, key) for part in (settings.adapter, chosen.recipe.adapter))
        if value != actual:
            raise RecipeError(
                f"adapter.{key} is {value!r}, but {chosen.label} has {actual!r}",
                hint="leave [adapter] out: the adapter to start from has its own",
            )


def align(
    settings: AlignRecipe,
    out: Path,
    places: Mapping[str, str] | None = None,
    observer: Observer = SILENT,
) -> Path:
    """Align a model into a folder, or resume the same alignment there.

    Args:
        settings: the recipe, as it was when the alignment started.
        out: the folder.
        places: new places of its files by their old ones; see `moved_files`.
        observer: is told of the progress.

    Raises:
        RunError: the folder holds something else, or another process works on it.
        FedRAIError: something cannot be used; no folder is written then.
        KeyboardInterrupt: stopped by the user; what is finished is kept.
    """
    run = RunFolder(out)
    before = run.read_json("align.json") if (out / "align.json").is_file() else None
    if before is None:
        runs.check_free(out)
    elif (out / CARD).is_file() and before["recipe_hash"] == settings.hash:
        return out
    moved_files.check(run, settings, places or {})
    current = moved_files.alignment_of(run, places) if before is not None else settings
    excluded = before.get("kept_out", {}) if before is not None else None
    job = prepare(current, excluded, settings, observer)
    if before is None:
        _write_start(run, job)
    with run.lock(), captured_log.into(out):
        run.repair()
        _check_unchanged(run, job)
        moved_files.record(run, places or {})
        kind = "started" if before is None else "resumed"
        run.event(kind, command=preparation.command_line())
        with stoppable() as stop:
            _Alignment(run, job, observer, stop).complete()
    return out


def _write_start(run: RunFolder, job: AlignmentJob) -> None:
    def write(folder: Path) -> None:
        runs.write_text(folder / "recipe.toml", recipe.to_toml(job.original))
        runs.write_text(folder / "align.json", json_text(job.info()))

    run.write_folder(run.path, write)


def _check_unchanged(run: RunFolder, job: AlignmentJob) -> None:
    names = {
        "recipe_hash": "the recipe",
        "model_fingerprint": "the base model",
        "start_sha256": "the adapter it starts from",
        "questions_fingerprint": "what evaluations ask",
        "constitution": "the constitution, or a file of requests,",
        "dtype": "the number format (set model.dtype)",
    }
    if changed := resuming.first_change(run.read_json("align.json"), job.info(), names):
        raise RunError(
            f"{run.path} holds another alignment: {changed} is not the same",
            hint="choose another folder with --out",
        )


class _Alignment:
    """An alignment in its folder; completes whatever is missing there."""

    def __init__(self, run: RunFolder, job: AlignmentJob, observer: Observer, stop: Stop) -> None:
        self._run, self._job, self._observer, self._stop = run, job, observer, stop

    def complete(self) -> None:
        """Evaluate, align, evaluate again, and write the card."""
        self._evaluate("before", self._job.start)
        if not (self._run.path / "report.json").is_file():
            self._align()
        self._evaluate("after", read_adapter(self._run.path / "adapter"))
        self._finish()

    def _event(self, kind: str, **fields: Any) -> None:
        if "round" in fields:
            fields["round"] = 0  # there are no rounds
        if kind not in preparation.UNRECORDED:
            self._run.event(kind, **fields)
        self._observer.event(kind, **fields)
        self._stop.check()

    def _evaluate(self, when: str, adapter: AdapterState) -> None:
        """Measure the model, if the recipe asks for it and it is not done yet."""
        folder = self._run.path / "evaluations" / when
        if self._job.settings.evaluation is None or folder.is_dir():
            return
        self._observer.say(f"evaluating the model {when} the alignment")
        questions, answers = self._job.prepared.questions, self._stop.after(self._observer.answers)
        lm = self._job.target.model
        measured = preparation.measure_adapters(lm, questions, [adapter], answers)
        storing.write_evaluation(self._run, folder, measured)
        self._run.event("evaluation-finished", when=when)

    def _align(self) -> None:
        job, work = self._job, self._run.path / "work"
        phase = Phase(job.prepared.recipe, replace(job.tools, on_event=self._event))
        work.mkdir(exist_ok=True)
        outcome = phase(NUMBER, job.start, work, work / "kept", True)
        self._write(outcome, work / "kept" / f"{NUMBER:04d}")
        self._event("constitution-finished", **brief(outcome.report))

    def _write(self, outcome: Aligned, material_folder: Path) -> None:
        """Write the results, the report last: a killed command repeats this until it is there."""
        run, job, folder = self._run, self._job, self._run.path / "adapter"
        material = read_material(material_folder)
        write_records(run.path / RECORDS, material.records)
        write_records(run.path / HARMLESS, material.harmless)
        export(run.path, material.records)
        shutil.rmtree(folder, ignore_errors=True)
        save = job.target.model.save_adapter
        run.write_folder(folder, lambda place: save(place, outcome.adapter))
        info = run.read_json("align.json")
        trained = [*of_recipe(job.prepared.recipe), *of_model(job.settings.model.base)]
        report = {
            "name": job.settings.name,
            "base": job.target.model.name,
            "start": info["start"],
            "constitution": info["constitution"],
            "trained_suites": list(dict.fromkeys(trained)),
            "alignment": dict(outcome.report),
            "cost": outcome.cost.to_json(),
        }
        run.write_json("report.json", report)

    def _finish(self) -> None:
        """Add the evaluations to the report and write the card."""
        run = self._run
        report = run.read_json("report.json")
        figures = {
            when: run.read_json(f"evaluations/{when}/metrics.json")
            for when in ("before", "after")
            if (run.path / "evaluations" / when).is_dir()
        }
        run.write_json("report.json", {**report, "evaluation": figures})
        run.event("finished")
        shutil.rmtree(run.path / "work", ignore_errors=True)
        rows = [[when, *evaluation_cells(values)] for when, values in figures.items()]
        note = "" if all(map(has_outside, figures.values())) else NOT_OUTSIDE
        runs.write_text(run.path / CARD, card(report, COLUMNS, rows, note))
