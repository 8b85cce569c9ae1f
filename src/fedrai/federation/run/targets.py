"""The model that a run folder, an adapter folder or a model spec names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai import assets, model
from fedrai.errors import ModelError, RunError
from fedrai.federation.plan import GLOBAL, load_adapters
from fedrai.federation.run import moved_files, preparation
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.generate import Sampling, generate
from fedrai.recipe import loading as recipe
from fedrai.recipe.sections import Recipe
from fedrai.records import Message
from fedrai.runs import RunFolder


@dataclass(frozen=True, slots=True)
class Target:
    """A base model, with an adapter if there is one."""

    label: str
    model: LanguageModel
    adapter: AdapterState | None
    recipe: Recipe

    def answer(
        self,
        history: Sequence[Message],
        *,
        tuned: bool,
        limit: int,
        temperature: float,
        seed: int,
    ) -> str:
        """One answer of the base or the tuned model to a conversation that ends with the user.

        Args:
            history: the conversation.
            tuned: whether the adapter is used.
            limit: longest answer, in tokens.
            temperature: sampling temperature; 0: the likeliest token each time.
            seed: for sampling.
        """
        with self.model.using(self.adapter if tuned else None):
            generated = generate(
                self.model,
                [list(history)],
                max_new_tokens=limit,
                batch_size=1,
                sampling=Sampling(temperature, seed=seed),
            )
        return generated.answers[0]


INSTEAD = (
    "Name a run or an adapter by its folder, `fedrai:aligned`, or a model: a folder, a .gguf file,"
    " a hub id (org/name), or a name of `fedrai assets list`; `fedrai runs` lists runs."
)
MAKERS = ("run.json", "align.json")
Load = Callable[..., LanguageModel]
"""Loads the model of a recipe; see `preparation.load_model`."""


def target(
    spec: str,
    number: int | None = None,
    client: str = "",
    like: Recipe | None = None,
    load: Load = preparation.load_model,
    base: str = "",
) -> Target:
    """The model that a run folder, an adapter folder or a model spec names.

    Args:
        spec: run folder, PEFT folder, `fedrai:aligned`, or model (folder, hub id, asset).
        number: round of a run; `None`: the last.
        client: which client's adapter, for runs in local mode.
        like: settings for a model or adapter without a run; None: the defaults of `[model]` and
            `[adapter]`.
        load: loads the model of a recipe.
        base: the spec of a run's or adapter's base model, if it is not where the run or the
            adapter says.

    Raises:
        RunError, ModelError, AssetError: it cannot be used.
    """
    path = Path(spec)
    if (path / "run.json").is_file():
        return _run_target(RunFolder.open(path), number, client, load, base)
    if model.is_adapter(spec):
        return _adapter_target(spec, like, load, base)
    if base:
        raise ModelError(f"{spec} is itself a model", hint="remove --base")
    settings = _recipe_for(spec, like)
    if not path.exists() and assets.parse(spec).scheme == "path":
        assets.fetch(spec, instead=INSTEAD)
    lm, start = load(settings, assets.RichProgress()), settings.adapter.start
    if start:
        return Target(f"{spec} with {start}", lm, model.read_start_adapter(start, lm), settings)
    return Target(spec, lm, None, settings)


def _run_target(
    folder: RunFolder, number: int | None, client: str, load: Load, base: str
) -> Target:
    settings = moved_files.settings_of(folder)
    if base:
        settings = with_base(settings, base)
    number = folder.last_round() if number is None else number
    if number not in (0, *folder.rounds()):
        raise RunError(f"{folder.path} has no round {number}; it has {folder.last_round()} rounds")
    if number:
        folder.check_round(number)
    if client and settings.federation.mode != "local":
        raise RunError("this run has one model for all clients", hint="remove --client")
    _check_base(folder.path.name, settings.model.base)
    lm = load(settings, assets.RichProgress())
    _note_other(folder.path.name, lm, str(folder.info.get("model_fingerprint") or ""))
    plan = preparation.plan_for(settings, settings.federation.clients)
    adapters = load_adapters(folder, lm, plan, number)
    key = client or GLOBAL
    if key not in adapters:
        raise RunError(f"name a client with --client: {', '.join(sorted(adapters))}")
    label = f"{folder.path.name}, round {number}" + (f", {client}" if client else "")
    return Target(label, lm, adapters[key], settings)


def base_spec(name: str, base: str = "") -> str:
    """The spec of the base model of an adapter.

    Args:
        name: the adapter: a PEFT folder, or `fedrai:aligned`.
        base: given by the user; empty: as recorded in the adapter or the run that made it.

    Raises:
        ModelError: it is unknown, or not on this machine.
    """
    if base:
        return base
    path = model.adapter_folder(name)
    maker = _maker(path)
    spec = _base_in(maker) if maker is not None else ""
    if spec and (assets.parse(spec).scheme != "path" or Path(spec).expanduser().exists()):
        return spec
    return model.base_of(path, model.read_adapter_config(path), name)


def _maker(path: Path) -> Path | None:
    """The run, or the folder of `fedrai align`, that contains the folder of its adapter."""
    place = path.resolve()
    if place.name == "adapter" and (place.parent / "align.json").is_file():
        return place.parent
    round_ = place.parent.parent if place.parent.name == "adapters" else place.parent
    run = round_.parent.parent
    is_run = round_.parent.name == "rounds" and (run / "run.json").is_file()
    return run if is_run else None


def _base_in(folder: Path) -> str:
    """The spec of the base model in the recipe of a run, or of a folder of `fedrai align`."""
    if (folder / "run.json").is_file():
        return moved_files.settings_of(RunFolder.open(folder)).model.base
    settings = moved_files.alignment_of(RunFolder(folder))
    start = settings.adapter_base or settings.model.base
    if (Path(start) / "run.json").is_file():
        return _base_in(Path(start))
    return base_spec(start) if model.is_adapter(start) else start


def _digest(path: Path) -> str:
    """The fingerprint of the base model that an adapter was trained on; empty: unknown."""
    maker = _maker(path)
    if maker is None:
        return model.read_base_record(path)
    records = (RunFolder(maker).read_json(n) for n in MAKERS if (maker / n).is_file())
    return str(next(records).get("model_fingerprint") or "")


def _check_base(name: str, base: str) -> None:
    if not base.startswith("fedrai:") and assets.parse(base).scheme == "path":
        place = Path(base).expanduser()
        if not place.exists():
            raise ModelError(
                f"the base model of {name} is {base}, and {place.absolute()} does not exist",
                hint=model.BASE_HINT,
            )


def _note_other(name: str, lm: LanguageModel, digest: str) -> None:
    """Print a note if a base model's files are not those that were trained on."""
    if digest and digest != lm.fingerprint:
        print(
            f"note: the files of {lm.name} are not those that {name} was trained on;"
            " its answers may differ",
            file=sys.stderr,
        )


def _adapter_target(name: str, like: Recipe | None, load: Load, base: str) -> Target:
    path = model.adapter_folder(name)
    lora = model.read_lora(model.read_adapter_config(path), name)
    settings = _recipe_for(base_spec(name, base), like)
    lm = load(settings, assets.RichProgress(), lora)
    _note_other(name, lm, _digest(path))
    layers = lora.target_modules
    fields = {"start": "", "rank": lora.rank, "alpha": lora.alpha,
              "target_modules": layers if isinstance(layers, list) else lm.layers}  # fmt: skip
    settings = settings.model_copy(update={"adapter": settings.adapter.model_copy(update=fields)})
    label = name if name in model.EMBEDDED else path.name
    return Target(label, lm, model.read_matching_adapter(path, name, lm), settings)


def with_base(settings: Recipe, base: str) -> Recipe:
    """The recipe with another base model."""
    return settings.model_copy(update={"model": settings.model.model_copy(update={"base": base})})


def _recipe_for(base: str, like: Recipe | None) -> Recipe:
    if like is not None:
        return with_base(like, base)
    return recipe.validate(
        {
            "name": "eval",
            "model": {"base": base},
            "data": {"sources": [{"path": "fedrai:ordinary"}]},
        }
    )
