"""A model to look at or to go on from: what a run folder, an adapter folder or a spec names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedrai import assets, model, recipe, server
from fedrai.errors import RunError
from fedrai.model import AdapterState, LanguageModel
from fedrai.runs import RunFolder
from fedrai.runtimes import local
from fedrai.schema import Recipe


@dataclass(frozen=True, slots=True)
class Target:
    """A model to look at: the base, and an adapter if there is one."""

    label: str
    model: LanguageModel
    adapter: AdapterState | None
    recipe: Recipe


INSTEAD = (
    "Name a run or an adapter by its folder, `fedrai:aligned`, or a model: a folder, a .gguf file,"
    " a hub id (org/name), or a name of `fedrai assets list`; `fedrai runs` lists runs."
)
Load = Callable[[Recipe, assets.Progress | None], LanguageModel]


def target(
    spec: str,
    number: int | None = None,
    client: str = "",
    like: Recipe | None = None,
    load: Load = local.load_model,
) -> Target:
    """The model that a run folder, an adapter folder or a model spec names.

    Args:
        spec: run folder, PEFT folder, `fedrai:aligned`, or model (folder, hub id, asset).
        number: round of a run; `None`: the last.
        client: which client's adapter, for runs in local mode.
        like: how to load a model or an adapter that no run comes with; None: as `[model]` and
            `[adapter]` are where nothing is set.
        load: loads the model of a recipe.

    Raises:
        RunError, ModelError, AssetError: it cannot be used.
    """
    path = Path(spec)
    if (path / "run.json").is_file():
        return _run_target(RunFolder.open(path), number, client, load)
    if model.is_adapter(spec):
        return _adapter_target(spec, like, load)
    settings = _recipe_for(spec, like)
    if not path.exists() and assets.parse(spec).scheme == "path":
        assets.fetch(spec, instead=INSTEAD)
    lm, start = load(settings, assets.RichProgress()), settings.adapter.start
    if start:
        return Target(f"{spec} with {start}", lm, model.read_start(start, lm), settings)
    return Target(spec, lm, None, settings)


def _run_target(folder: RunFolder, number: int | None, client: str, load: Load) -> Target:
    settings = recipe.load(folder.path / "recipe.toml")
    number = folder.last_round() if number is None else number
    if number not in (0, *folder.rounds()):
        raise RunError(f"{folder.path} has no round {number}; it has {folder.last_round()} rounds")
    if client and settings.federation.mode != "local":
        raise RunError("this run has one model for all clients", hint="drop --client")
    lm = load(settings, assets.RichProgress())
    plan = local.plan_for(settings, settings.federation.clients)
    adapters = server.load_adapters(folder, lm, plan, number)
    key = client or server.GLOBAL
    if key not in adapters:
        raise RunError(f"name a client with --client: {', '.join(sorted(adapters))}")
    label = f"{folder.path.name}, round {number}" + (f", {client}" if client else "")
    return Target(label, lm, adapters[key], settings)


def _adapter_target(name: str, like: Recipe | None, load: Load) -> Target:
    path = model.adapter_folder(name)
    config = model.read_adapter_config(path)
    base = str(config.get("base_model_name_or_path") or "")
    spec = {upstream: name for name, upstream in model.UPSTREAM.items()}.get(base, base)
    settings = _recipe_for(spec, like)
    fields = {"start": "", "rank": config["r"], "alpha": config["lora_alpha"],
              "target_modules": config["target_modules"]}  # fmt: skip
    settings = settings.model_copy(update={"adapter": settings.adapter.model_copy(update=fields)})
    lm = load(settings, assets.RichProgress())
    label = name if name in model.EMBEDDED else path.name
    return Target(label, lm, model.read_adapter(path), settings)


def _recipe_for(base: str, like: Recipe | None) -> Recipe:
    if like is not None:
        named = like.model.model_copy(update={"base": base})
        return like.model_copy(update={"model": named})
    return recipe.validate(
        {
            "name": "eval",
            "model": {"base": base},
            "data": {"sources": [{"path": "fedrai:ordinary"}]},
        }
    )
