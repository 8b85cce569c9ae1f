"""One alignment of one model without a federation, as `fedrai align` does; it can be resumed.

recipe.toml           the resolved recipe
align.json            what the alignment started from; tells whether it is the same one
work/, kept/          what an interrupted alignment goes on from; `work` goes when it is done
adapter/              the aligned adapter, a PEFT folder
records.jsonl, sft.jsonl, preferences.jsonl
evaluations/before/, evaluations/after/
report.json           all figures
README.md             the card; written last, so that with it all is done
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
from fedrai.federation.run import aligning, moved_files, preparation
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
from fedrai.runs.record.evaluations import COLUMNS, evaluation_cells

CARD = "README.md"
NUMBER = 1  # the only round there is


@dataclass(frozen=True, slots=True)
class Job:
    """One alignment, checked and not yet begun.

    Attributes:
        settings: the recipe.
        chosen: the model that is aligned.
        start: the adapter that it starts from.
        prepared: the recipe as that of a run, with its model.
        tools: what the phase works with; they tell nobody yet.
        named: the recipe with the names that its files had when the alignment began.
    """

    settings: AlignRecipe
    chosen: Target
    start: AdapterState
    prepared: preparation.PreparedRun
    tools: PhaseTools
    named: AlignRecipe

    def info(self) -> dict[str, Any]:
        """What `align.json` holds."""
        known = self.prepared.info()
        keys = (
            "name", "model", "model_fingerprint", "questions_fingerprint", "constitution",
            "kept_out", "versions", "machine", "device", "dtype",
        )  # fmt: skip
        return {
            "start": "a fresh adapter" if self.chosen.adapter is None else self.chosen.label,
            "start_sha256": digest_of(self.start),
            "recipe_hash": self.named.hash,
            **{key: known[key] for key in keys},
        }


def settings_of(path: Path) -> AlignRecipe:
    """The recipe of an alignment that was begun.

    Raises:
        RunError: there is none.
    """
    if not (path / "align.json").is_file():
        raise RunError(f"{path} is not a folder of `fedrai align` (no align.json)")
    return recipe.load_alignment(RunFolder(path).recipe_file)


def prepare(
    settings: AlignRecipe,
    kept_out: Mapping[str, str] | None = None,
    named: AlignRecipe | None = None,
    observer: Observer = SILENT,
) -> Job:
    """Load and check everything, without writing anything.

    Args:
        settings: the recipe.
        kept_out: of an alignment that was begun; None: the suites that are here now.
        named: the recipe with the names that its files had then; None: as they have now.
        observer: shows downloads.

    Raises:
        RecipeError: `[adapter]` does not fit the adapter to start from.
        ConstitutionError, GuardError, DataError, ModelError, AssetError, RunError: something cannot
            be used.
    """
    whole, named = settings.as_run(), named or settings
    alignment = preparation.alignment_of(whole, named.as_run())
    chosen = target(
        settings.model.base,
        like=whole,
        base=settings.adapter_base,
        load=lambda part, _shown, *more: preparation.load_model(part, observer.downloads, *more),
    )
    _check_adapter(settings, chosen)
    whole = whole.model_copy(
        update={"model": chosen.recipe.model, "adapter": chosen.recipe.adapter}
    )
    questions = questions_for(whole, chosen.model, on_bad=note_bad_rows(observer))
    kept = preparation.excluded_suites(whole) if kept_out is None else kept_out
    prepared = preparation.PreparedRun(
        whole, chosen.model, {}, {}, (), questions, FilterOutcome(), alignment, excluded=kept
    )
    tools = aligning.tools_for(
        prepared,
        lambda _kind, **_fields: None,
        chosen.adapter,
        observer.downloads,
    )
    fresh = chosen.model.fresh_adapter(seed_for(settings.seed, "adapter"))
    return Job(settings, chosen, chosen.adapter or fresh, prepared, tools, named)


def _check_adapter(settings: AlignRecipe, chosen: Target) -> None:
    """See that keys of `[adapter]` that were set are those of the adapter that there is."""
    for key in settings.adapter.model_fields_set:
        wanted, found = (getattr(part, key) for part in (settings.adapter, chosen.recipe.adapter))
        if wanted != found:
            raise RecipeError(
                f"adapter.{key} is {wanted!r}, and {chosen.label} has {found!r}",
                hint="leave [adapter] out: the adapter to start from has its own",
            )


def align(
    settings: AlignRecipe,
    out: Path,
    places: Mapping[str, str] | None = None,
    observer: Observer = SILENT,
) -> Path:
    """Align a model into a folder, or go on with the same alignment there.

    Args:
        settings: the recipe, as it was begun.
        out: the folder.
        places: where files that it names lie now, by where they lay; see `moved_files`.
        observer: is told of the progress.

    Raises:
        RunError: the folder holds something else, or another process works on it.
        FedRAIError: something cannot be used; no folder is begun then.
        KeyboardInterrupt: stopped by the user; what is finished is kept.
    """
    if (out / CARD).is_file() and _recipe_of(out) == settings.hash:
        return out
    begun = (out / "align.json").is_file()
    if not begun:
        runs.check_free(out)
    run = RunFolder(out)
    moved_files.check(run, settings, places or {})
    here = moved_files.alignment_of(run, places) if begun else settings
    kept = run.read_json("align.json").get("kept_out", {}) if begun else None
    job = prepare(here, kept, settings, observer)
    if not begun:
        _begin(run, job)
    with run.lock(), captured_log.into(out):
        run.repair()
        _check_same(run, job)
        moved_files.record(run, places or {})
        run.event("resumed" if begun else "started", command=preparation.command_line())
        _go_on(run, job, observer)
    return out


def _recipe_of(out: Path) -> str | None:
    known = out / "align.json"
    return RunFolder(out).read_json("align.json")["recipe_hash"] if known.is_file() else None


def _begin(run: RunFolder, job: Job) -> None:
    def write(folder: Path) -> None:
        runs.write_text(folder / "recipe.toml", recipe.to_toml(job.named))
        runs.write_text(folder / "align.json", json_text(job.info()))

    run.write_folder(run.path, write)


def _check_same(run: RunFolder, job: Job) -> None:
    before, now = run.read_json("align.json"), job.info()
    for key, what in (
        ("recipe_hash", "the recipe"),
        ("model_fingerprint", "the base model"),
        ("start_sha256", "the adapter it starts from"),
        ("questions_fingerprint", "what evaluations ask"),
        ("constitution", "the constitution, or a file of requests,"),
        ("dtype", "the number format (set model.dtype)"),
    ):
        if before.get(key) != now[key]:
            raise RunError(
                f"{run.path} holds another alignment: {what} is not the same",
                hint="choose another folder with --out",
            )


def _go_on(run: RunFolder, job: Job, observer: Observer) -> None:
    with stoppable() as stop:
        watch = _watch(run, observer, stop)
        _evaluate(run, job, watch, observer, "before", job.start)
        if not (run.path / "report.json").is_file():
            _align(run, job, watch)
        adapter = read_adapter(run.path / "adapter")
        _evaluate(run, job, watch, observer, "after", adapter)
    _finish(run)


def _watch(run: RunFolder, observer: Observer, stop: Stop) -> preparation.Callbacks:
    def event(kind: str, **fields: Any) -> None:
        if "round" in fields:
            fields["round"] = 0  # there are none
        if kind not in preparation.UNRECORDED:
            run.event(kind, **fields)
        observer.event(kind, **fields)

    return preparation.Callbacks(event=stop.after(event), answers=stop.after(observer.answers))


def _evaluate(
    run: RunFolder,
    job: Job,
    watch: preparation.Callbacks,
    observer: Observer,
    when: str,
    adapter: AdapterState,
) -> None:
    """Measure the model before or after, if the recipe asks for it and the folder has it not."""
    folder = run.path / "evaluations" / when
    if job.settings.evaluation is None or folder.is_dir():
        return
    observer.say(f"evaluating the model {when} the alignment")
    questions, lm = job.prepared.questions, job.chosen.model
    measured = preparation.evaluate(lm, questions, [adapter], watch.answers)
    storing.write_evaluation(run, folder, measured)
    run.event("evaluation-finished", when=when)


def _align(run: RunFolder, job: Job, watch: preparation.Callbacks) -> None:
    phase = Phase(job.prepared.recipe, replace(job.tools, on_event=watch.event))
    work = run.path / "work"
    work.mkdir(exist_ok=True)
    outcome = phase(NUMBER, job.start, work, work / "kept", True)
    _write(run, job, outcome, work / "kept" / f"{NUMBER:04d}")
    watch.event("constitution-finished", **brief(outcome.report))


def _write(run: RunFolder, job: Job, outcome: Aligned, made: Path) -> None:
    """Write what came of it, the report last: until then a killed command does this again.

    Args:
        run: the folder.
        job: the alignment.
        outcome: what the phase gives.
        made: where it left its material.
    """
    material = read_material(made)
    write_records(run.path / RECORDS, material.records)
    write_records(run.path / HARMLESS, material.harmless)
    export(run.path, material.records)
    target_folder = run.path / "adapter"
    shutil.rmtree(target_folder, ignore_errors=True)
    run.write_folder(
        target_folder, lambda folder: job.chosen.model.save_adapter(folder, outcome.adapter)
    )
    known = run.read_json("align.json")
    report = {
        "name": job.settings.name,
        "base": job.chosen.model.name,
        "start": known["start"],
        "constitution": known["constitution"],
        "trained_suites": _trained(job),
        "alignment": dict(outcome.report),
        "cost": outcome.cost.to_json(),
    }
    run.write_json("report.json", report)


def _trained(job: Job) -> list[str]:
    """Suites whose requests were trained on, here or in what this started from."""
    now, before = of_recipe(job.prepared.recipe), of_model(job.settings.model.base)
    return list(dict.fromkeys([*now, *before]))


def _finish(run: RunFolder) -> None:
    """Add the evaluations to the report and write the card."""
    report = run.read_json("report.json")
    found = {
        when: run.read_json(f"evaluations/{when}/metrics.json")
        for when in ("before", "after")
        if (run.path / "evaluations" / when).is_dir()
    }
    run.write_json("report.json", {**report, "evaluation": found})
    run.event("finished")
    shutil.rmtree(run.path / "work", ignore_errors=True)
    rows = [[when, *evaluation_cells(figures)] for when, figures in found.items()]
    runs.write_text(run.path / CARD, card(report, COLUMNS, rows))
