"""The checks of a node's folder: server, clock, key, `node.toml`, data, models, guards, machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedrai import assets, data, recipe
from fedrai.assets import format_bytes as size
from fedrai.deployment.setup import certificates, machine
from fedrai.deployment.setup.checks import Check, attempt, private, reach, read_bytes, versions
from fedrai.deployment.setup.machine import BaseModel
from fedrai.deployment.setup.settings import Address, Deployment
from fedrai.errors import FedRAIError

if TYPE_CHECKING:
    from fedrai.recipe.node import Node
    from fedrai.recipe.sections import Source


def checks_of_node(here: Deployment, server: Address, *, load: bool) -> Iterator[Check]:
    """All checks of a node's folder, in the order in which an operator fixes problems."""
    yield from versions()
    if not here.insecure:
        yield from _key(here)
    yield from reach(here, server)
    try:
        node = recipe.load_node(here.folder / "node.toml")
    except FedRAIError as error:
        yield Check("node.toml", "failed", error.message, error.hint)
        return
    yield Check("node.toml", "ok", f"node {node.name}")
    for source in node.data.sources:
        yield attempt(f"data {Path(source.path).name}", partial(_rows, here.folder, source))
    yield from _models(here.folder, node)
    yield from _guards(node, load=load)


def _key(here: Deployment) -> Iterator[Check]:
    file = here.folder / "node.key"
    yield private("node key", file)
    if file.is_file():
        yield attempt("key", lambda: _kind(file))


def _kind(file: Path) -> Check:
    line = certificates.public_line(read_bytes(file))
    return Check(
        "key", "ok", f"{line.split()[0].decode('ascii')}; it must be registered with the server"
    )


def _rows(folder: Path, source: Source) -> Check:
    """Count the rows of a source, usable and unusable."""
    local = data.is_local(source.path)
    spec = str(folder / Path(source.path).expanduser()) if local else source.path
    name = f"data {Path(source.path).name}"
    loaded = data.load(source.model_copy(update={"path": spec}), "skip")
    good, bad = len(loaded.examples), len(loaded.bad_rows)
    if bad:
        why = data.most_common_problem(loaded.bad_rows)
        return Check(name, "warning", f"{good} usable rows, {bad} unusable; {why}",
                     'fix them, or use recipes with data.on_bad_rows = "skip"')  # fmt: skip
    return Check(name, "ok", f"{good} rows")


def _models(folder: Path, node: Node) -> Iterator[Check]:
    models: list[BaseModel] = []
    if not node.policy.base_models:
        yield Check("model", "not tried", "the policy allows any base model",
                    "list models in policy.base_models to check them")  # fmt: skip
    for name in node.policy.base_models:
        try:
            model = machine.base_model(name, folder)
        except FedRAIError as error:
            yield Check(f"model {name}", "failed", error.message, error.hint)
            continue
        models.append(model)
        yield _model(model)
    yield _disk(folder, models)
    yield _memory(models)


def _model(model: BaseModel) -> Check:
    name = f"model {model.name}"
    if model.cached:
        return Check(name, "ok", "found" + _weight_count(model))
    if model.place is not None:
        return Check(name, "failed", f"{model.place} does not exist",
                     "put the model there; relative paths start at the node's folder, and recipes"
                     " must use the same name")  # fmt: skip
    return Check(name, "warning", "not in the cache; the first round would fetch it",
                 f"fedrai assets fetch {model.name}")  # fmt: skip


def _weight_count(model: BaseModel) -> str:
    return "" if model.weights is None else f", {model.weights / 1e6:.1f} M weights"


def _disk(folder: Path, models: list[BaseModel]) -> Check:
    """Free space against what is still to be fetched (packed and unpacked)."""
    free = min(machine.free_disk(folder), machine.free_disk(assets.cache_root()))
    missing = [model for model in models if not model.cached]
    need = machine.SPARE_DISK + sum(2 * (model.bytes or 0) for model in missing)
    finding = f"{size(free)} free, {size(need)} needed"
    unknown = sum(model.bytes is None for model in missing)
    finding += f", and {unknown} models of unknown size" if unknown else ""
    if free < need:
        advice = f"free disk space in {assets.cache_root()} and {folder}"
        return Check("disk", "failed", finding, advice)
    return Check("disk", "warning" if unknown else "ok", finding)


def _memory(models: list[BaseModel]) -> Check:
    """Memory against the largest model's weights; training needs more, depending on the recipe."""
    free = machine.free_memory()
    counted = [model.weights for model in models if model.weights is not None]
    if free is None:
        return Check("memory", "not tried", "this system does not report free memory")
    if not counted:
        return Check("memory", "not tried", f"{size(free)} free; no model to compare with")
    need = machine.BYTES_A_WEIGHT * max(counted)
    finding = f"{size(free)} free, {size(need)} for the weights alone (float32)"
    if free < need / 2:
        return Check(
            "memory",
            "failed",
            finding,
            "bfloat16 does not fit either; use a smaller model, or a GPU",
        )
    if free < 2 * need:
        return Check("memory", "warning", finding, "training needs more than the weights")
    return Check("memory", "ok", finding)


def _guards(node: Node, *, load: bool) -> Iterator[Check]:
    names = dict.fromkeys([*node.allowed_guards, *node.guards])
    if not load:
        yield Check("guards", "not tried", ", ".join(names), "add --load to test them (slow)")
        return
    for name in names:
        yield attempt(f"guard {name}", partial(_guard, name, node))


def _guard(name: str, node: Node) -> Check:
    from fedrai.guards import base, loading

    guard = loading.load(name, tables=node.guards, device=node.device)
    if caution := base.caution_of(guard):
        return Check(f"guard {name}", "warning", f"loads; {caution}", "see docs/guards.md")
    return Check(f"guard {name}", "ok", "loads")
