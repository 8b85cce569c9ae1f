"""The adapter that training starts from: a PEFT folder, or the aligned one of the package."""

from __future__ import annotations

from pathlib import Path

import torch

from fedrai.data import embedded
from fedrai.errors import AssetError, ModelError
from fedrai.model.adapters import AdapterState, check_adapter, read_adapter, read_adapter_config
from fedrai.model.bases import read_base_record
from fedrai.model.language import LanguageModel
from fedrai.model.lora import RESCALING, Lora, read_lora
from fedrai.model.parts import Part, fresh_adapter

EMBEDDED = {"fedrai:aligned": embedded.HERE / "aligned"}
_BASE_COPY = ".base_layer.weight"  # PEFT stores one for an output layer with an adapter
_WIDENING_SEED = 0  # of the ranks that a start lacks: the same adapter wherever it is read


def is_adapter(spec: str) -> bool:
    """Whether a spec names an adapter, rather than a model or a run."""
    return spec.startswith("fedrai:") or (Path(spec) / "adapter_config.json").is_file()


def adapter_folder(spec: str) -> Path:
    """The folder of an adapter.

    Args:
        spec: a PEFT folder, or `fedrai:aligned`.

    Raises:
        AssetError: the package has no adapter of that name.
        ModelError: the folder holds none.
    """
    if spec.startswith("fedrai:"):
        folder = EMBEDDED.get(spec)
        if folder is None:
            raise AssetError(f"no adapter {spec}", hint=f"available: {', '.join(EMBEDDED)}")
        if not (folder / "adapter_config.json").is_file():
            raise AssetError(
                f"{spec} is not part of this installation", hint="name a PEFT folder instead"
            )
        return folder
    if not (Path(spec) / "adapter_config.json").is_file():
        raise ModelError(
            f"no adapter in {spec} (expected adapter_config.json)",
            hint="a run's adapter is in rounds/NUMBER/adapter; `fedrai export` copies it",
        )
    return Path(spec)


def read_start_adapter(spec: str, model: LanguageModel) -> AdapterState:
    """The adapter that training of a model starts from, in float32.

    Where it has fewer ranks than the model's and the same scale (alpha / rank), the others are
    fresh, with a second factor of zero: the product is that of the adapter.

    Args:
        spec: a PEFT folder, or `fedrai:aligned`.
        model: the model, with an adapter as in `[adapter]`.

    Raises:
        AssetError, ModelError: there is none, or it does not fit the model or `[adapter]`.
    """
    folder = adapter_folder(spec)
    rank = _check_config(spec, folder, model)
    try:
        return read_matching_adapter(folder, spec, model, rank)
    except ModelError as error:
        hint = "set adapter.target_modules and model.base to those of that adapter"
        raise ModelError(f"adapter.start: {error.message}", hint=error.hint or hint) from error


def read_matching_adapter(
    folder: Path, name: str, model: LanguageModel, rank: int = 0
) -> AdapterState:
    """The tensors of a PEFT folder in float32, checked against a model's adapter.

    Args:
        folder: the adapter's folder.
        name: the adapter's name, for errors.
        model: the model, with an adapter of the same settings.
        rank: ranks that the folder has, where these are fewer than the model's; 0: all.

    Raises:
        ModelError: there are none, or they do not fit.
    """
    state = _without_copies(read_adapter(folder), name, model)
    shapes = {key: tuple(p.shape) for key, p in model.parameters.items()}
    part = Part(rank=rank)
    try:
        check_adapter(state, part.sent_shapes(shapes))
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}") from error
    return part.filled(state, fresh_adapter(shapes, _WIDENING_SEED)) if rank else state


def _without_copies(state: AdapterState, name: str, model: LanguageModel) -> AdapterState:
    """The tensors without copies of the base model's own weights.

    Raises:
        ModelError: a copy differs from the base model's weight.
    """
    own = dict(model.peft.named_parameters(remove_duplicate=False))  # tied ones have two names
    for key in filter(_is_copy, state):
        if key not in own or not torch.equal(state[key].to(own[key].dtype), own[key].cpu()):
            raise ModelError(f"{name} changes a weight of the base model itself: {key}")
    return {key: tensor for key, tensor in state.items() if not _is_copy(key)}


def _is_copy(key: str) -> bool:
    return key.endswith(_BASE_COPY)


def _check_config(spec: str, folder: Path, model: LanguageModel) -> int:
    """The adapter's rank if it is lower than the model's, else 0.

    Raises:
        ModelError: a setting that names and shapes of tensors do not show is another one.
    """
    config = read_adapter_config(folder)
    base, digest = str(config.get("base_model_name_or_path") or ""), read_base_record(folder)
    same = digest == model.fingerprint or _short(base) in ("", _short(model.name))
    if not same and not _is_foreign_path(base):
        raise ModelError(
            f"adapter.start = {spec!r} belongs to {base}, and model.base is {model.name}",
            hint="set model.base to the base model of the adapter",
        )
    ours = model.peft.peft_config["default"]
    theirs = read_lora(config, f"adapter.start = {spec!r}")
    _check_plain(spec, theirs)
    if theirs.rank < ours.r and theirs.alpha * ours.r == ours.lora_alpha * theirs.rank:
        return theirs.rank
    for name, value, expected in (("rank", theirs.rank, ours.r),
                                  ("alpha", theirs.alpha, ours.lora_alpha)):  # fmt: skip
        if value != expected:
            raise ModelError(
                f"adapter.start = {spec!r} has {name} {value}, [adapter] has {expected}",
                hint=f"set adapter.{name} = {value}",
            )
    return 0


def _is_foreign_path(base: str) -> bool:
    """Whether the base of an adapter is a path of another machine, which says nothing here."""
    return Path(base).is_absolute() and not Path(base).exists()


def _check_plain(spec: str, theirs: Lora) -> None:
    special = [key for key in RESCALING if key in theirs.more]
    if special:
        raise ModelError(f"adapter.start = {spec!r} is not a plain LoRA: it sets {special[0]}")


def _short(name: str) -> str:
    """The last part of a model's name, without its revision."""
    return name.split("@")[0].rstrip("/").split("/")[-1].lower()
