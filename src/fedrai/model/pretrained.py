"""A model folder opened by transformers: safetensors alone, no code in it, no random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fedrai.errors import ModelError

EXPECTED = "expected a folder with config.json, *.safetensors and tokenizer files"
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def open_pretrained(auto: Any, folder: Path, what: str, **options: Any) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Args:
        auto: transformers' class that chooses the model's own, such as `AutoModel`.
        folder: the model's folder.
        what: what the folder must hold, for errors.
        options: further arguments of `from_pretrained`.

    Raises:
        ModelError: the folder holds a pickle or an adapter, or is damaged; or weights are missing,
            which would be random.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    _check_files(folder)
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list weights; missing ones are an error below
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model, report = auto.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (MemoryError, torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:  # of any kind, for a damaged file
        reason = first_line(error)
        raise ModelError(f"{folder} cannot be loaded as {what}: {reason}", hint=EXPECTED) from error
    finally:
        logging.set_verbosity(level)
    _check_weights(folder, model, report["missing_keys"])
    return model, tokenizer


def _check_weights(folder: Path, model: Any, missing_keys: Iterable[str]) -> None:
    """Refuse weights that are not in the folder; a pooler is not used."""
    missing = sorted(name for name in missing_keys if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are missing and would be"
            f" random, such as {missing[0]}",
            hint=EXPECTED,
        )


def _check_files(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter, expected a model",
            hint="set model.base to the adapter's base model, and adapter.start to the adapter",
        )
    pickles = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run code and is not"
            " loaded",
            hint="if you trust it, load it with transformers and save it again:"
            " save_pretrained(FOLDER) writes safetensors",
        )


def first_line(error: Exception) -> str:
    """The first line of an exception's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "ignore_mismatched_sizes" in lines[0]:
        return "the shapes of its weights do not match config.json"
    return lines[0][:200]
