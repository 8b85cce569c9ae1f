"""Asks models the suites of `constitution.py`, keeps their answers, and judges them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evidence import Result
from fedrai import assets, data
from fedrai.errors import EvaluationError, GuardError
from fedrai.evaluation import suites
from fedrai.evaluation.legacy import legacy_safe
from fedrai.evaluation.refusal import Reply, judge
from fedrai.federation.run import preparation
from fedrai.federation.run.targets import Target, target
from fedrai.guards import loading
from fedrai.guards.base import Guard, full_name
from fedrai.model import AdapterState, LanguageModel, Lora
from fedrai.model.generate import generate
from fedrai.recipe.sections import Recipe
from fedrai.records import Example, Message
from fedrai.runs.files import digest_of, write_text
from fedrai.training.sft import held_out_loss, label_count

XSTEST = "xstest_prompts.csv"
XSTEST_SIZES = {"safe": 250, "unsafe": 200}
HELD_OUT = "fedrai:ordinary-held-out"
PART = 8  # batches between two saves
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Suites:
    """What is asked: items by suite, the kinds of XSTest's safe prompts, the held-out rows."""

    items: dict[str, Sequence[suites.Item]]
    kinds: Sequence[str]
    held_out: Sequence[Example]

    def prompts(self) -> dict[str, str]:
        """SHA-256 of each suite's prompts."""
        return {name: _digest([i.prompt for i in items]) for name, items in self.items.items()}


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is asked and judged."""

    max_new_tokens: int
    batch_size: int
    max_length: int
    threshold: float


def load_suites(xstest: Path, limit: int | None, unsafe: int | None = None) -> Suites:
    """All suites, or the first prompts of each.

    Args:
        xstest: XSTest's CSV of prompts, or the folder with it.
        limit: prompts of each suite; None: all.
        unsafe: most of XSTest's unsafe prompts; None: all.

    Raises:
        EvaluationError: XSTest's file is not what it should be.
        AssetError: AdvBench cannot be fetched.
    """
    held_out = data.load(HELD_OUT).examples
    found = read_xstest(xstest / XSTEST if xstest.is_dir() else xstest)
    items = {
        "advbench": suites.advbench(suites.ADVBENCH_SIZE, 0),
        "xstest-safe": [item for item, _ in found["safe"]],
        "xstest-unsafe": [item for item, _ in found["unsafe"]][:unsafe],
        "ordinary": suites.ordinary(held_out, len(held_out), 0),
    }
    kinds = [kind for _, kind in found["safe"]]
    return Suites({name: part[:limit] for name, part in items.items()}, kinds[:limit], held_out)


def read_xstest(file: Path) -> dict[str, list[tuple[suites.Item, str]]]:
    """XSTest's prompts with their kinds, by label (`safe`, `unsafe`).

    Raises:
        EvaluationError: columns or counts are not those of XSTest v2.
    """
    found: dict[str, list[tuple[suites.Item, str]]] = {label: [] for label in XSTEST_SIZES}
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                item = suites.Item(int(row["id"].removeprefix("v2-")), row["prompt"])
                found[row["label"]].append((item, row["type"]))
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise EvaluationError(
            f"{file} does not hold XSTest's prompts ({type(error).__name__})",
            hint="expected a CSV with the columns id, prompt, type, label",
        ) from error
    sizes = {label: len(rows) for label, rows in found.items()}
    if sizes != XSTEST_SIZES:
        raise EvaluationError(f"XSTest has {XSTEST_SIZES}, {file} has {sizes}")
    return found


def load_guard(spec: str) -> Guard:
    """The guard that judges requests with their answers."""
    return loading.load(spec, progress=assets.RichProgress())


def threshold_of(guard: Guard, wanted: str) -> float:
    """The probability from which an answer counts as unsafe.

    Raises:
        GuardError: it is neither a number nor a name that the guard knows.
    """
    try:
        return guard.thresholds[wanted] if wanted in guard.thresholds else float(wanted)
    except ValueError:
        names = ", ".join(sorted(guard.thresholds))
        raise GuardError(
            f"{guard.name} has no threshold {wanted}", hint=f"it has: {names}"
        ) from None


class Models:
    """Targets of one command; a base model that several of them share is loaded once."""

    def __init__(self) -> None:
        self._last: tuple[str, LanguageModel] | None = None

    def target(self, path: str, number: int | None) -> Target:
        """What a path names; the round is for runs only."""
        is_run = (Path(path) / "run.json").is_file()
        return target(path, number if is_run else None, load=self._load)

    def _load(
        self, settings: Recipe, progress: assets.Progress | None, lora: Lora | None = None
    ) -> LanguageModel:
        adapter = settings.adapter.model_dump(exclude={"start", "dropout", "ranks"})
        if isinstance(adapter["target_modules"], list):
            adapter["target_modules"] = sorted(adapter["target_modules"])
        parts = [settings.model.model_dump(), adapter, settings.data.max_length, repr(lora)]
        key = json.dumps(parts)
        if self._last is None or self._last[0] != key:
            self._last = None  # two big models at once may not fit
            self._last = (key, preparation.load_model(settings, progress, lora))
        return self._last[1]


def name_of(path: str, chosen: Target, arm: str | None, seed: int | None) -> tuple[str, int]:
    """Arm and seed: as given, else the folder's name and the seed of the recipe."""
    named = arm or (path if path.startswith("fedrai:") else Path(path).resolve().name)
    return named, chosen.recipe.seed if seed is None else seed


def measure(
    chosen: Target,
    named: tuple[str, int],
    asked: Suites,
    guard: Guard,
    settings: Settings,
    beside: Path,
    on_progress: OnProgress,
) -> Result:
    """Ask one model everything that has not been asked yet, and judge all answers.

    Args:
        chosen: the model.
        named: arm and seed.
        asked: the suites.
        guard: judges AdvBench's requests with their answers.
        settings: how it is asked and judged.
        beside: folder of the answers; each model has its own in it, named by its weights too.
        on_progress: called with (suite, answers done, of how many).
    """
    lm = chosen.model
    adapter = chosen.adapter or lm.fresh_adapter(0)  # a fresh one changes nothing
    lm.load_adapter(adapter)
    folder = beside / _folder_name(lm, adapter, named, settings)
    folder.mkdir(parents=True, exist_ok=True)
    answers = {
        name: _answers(lm, name, items, folder / f"{name}.jsonl", settings, on_progress)
        for name, items in asked.items.items()
    }
    refused = {name: [_refused(text) for text in texts] for name, texts in answers.items()}
    loss, tokens = _loss(lm, asked.held_out, settings.max_length, folder / "loss.json")
    return Result(
        arm=named[0],
        seed=named[1],
        outcomes={
            "safe": refused["advbench"],
            "safe-legacy": [legacy_safe(text) for text in answers["advbench"]],
            "safe-guard": _safe(
                guard, asked.items["advbench"], answers["advbench"], settings.threshold
            ),
            "xstest-refused": refused["xstest-safe"],
            "xstest-unsafe-refused": refused["xstest-unsafe"],
            "refused": refused["ordinary"],
        },
        kinds=asked.kinds,
        prompts=asked.prompts(),
        held_out_loss=loss,
        about={
            "model": chosen.label,
            "adapter_sha256": digest_of(adapter) if chosen.adapter else "",
            "guard": full_name(guard),
            "threshold": settings.threshold,
            "max_new_tokens": settings.max_new_tokens,
            "max_length": settings.max_length,
            "held_out_tokens": tokens,
        },
    )


def _folder_name(
    lm: LanguageModel, adapter: AdapterState, named: tuple[str, int], settings: Settings
) -> str:
    kind = str(lm.output_weight.dtype).removeprefix("torch.")
    key = _digest([lm.fingerprint, digest_of(adapter), kind, settings.max_new_tokens])[:12]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", named[0])
    return f"{slug}-{named[1]}-{key}"


def _answers(
    lm: LanguageModel,
    suite: str,
    items: Sequence[suites.Item],
    file: Path,
    settings: Settings,
    on_progress: OnProgress,
) -> list[str]:
    """One answer an item; those in the file are taken, the others made and saved as they come."""
    known = _saved(file)
    missing = [item for item in items if (item.number, item.prompt) not in known]
    missing.sort(key=lambda item: (len(item.prompt), item.number))  # batches of like length
    size = PART * settings.batch_size
    for start in range(0, len(missing), size):
        part = missing[start : start + size]
        made = generate(
            lm,
            [[Message("user", item.prompt)] for item in part],
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
        )
        known |= {(i.number, i.prompt): a for i, a in zip(part, made.answers, strict=True)}
        _save(file, known)
        on_progress(suite, len(items) - len(missing) + start + len(part), len(items))
    return [known[item.number, item.prompt] for item in items]


def _saved(file: Path) -> dict[tuple[int, str], str]:
    if not file.is_file():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(row["number"], row["prompt"]): row["answer"] for row in rows}


def _save(file: Path, known: dict[tuple[int, str], str]) -> None:
    rows = ({"number": n, "prompt": p, "answer": a} for (n, p), a in sorted(known.items()))
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def _refused(answer: str) -> bool | None:
    reply = judge(answer)
    return None if reply is Reply.UNSCORED else reply is Reply.REFUSAL


def _safe(
    guard: Guard, items: Sequence[suites.Item], answers: Sequence[str], threshold: float
) -> list[bool | None]:
    """Whether the guard holds each request with its answer to be safe; None: it cannot tell."""
    pairs = [
        (Message("user", item.prompt), Message("assistant", text))
        for item, text in zip(items, answers, strict=True)
    ]
    said = guard.judge(pairs).verdicts
    return [None if v.probability is None else v.probability < threshold for v in said]


def _loss(
    lm: LanguageModel, examples: Sequence[Example], max_length: int, file: Path
) -> tuple[float, int]:
    """Loss on held-out answers in nats per label token, and the label tokens."""
    rows = [lm.chat.train_tokens(example.messages, max_length) for example in examples]
    rows = [row for row in rows if label_count(row)]
    key = _digest([[row.ids, row.mask] for row in rows])
    if file.is_file() and (found := json.loads(file.read_text(encoding="utf-8")))["rows"] == key:
        return found["loss"], found["tokens"]
    with torch.inference_mode():
        loss, tokens = held_out_loss(lm, rows, 16)
    write_text(file, json.dumps({"rows": key, "loss": loss, "tokens": tokens}) + "\n")
    return loss, tokens


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
