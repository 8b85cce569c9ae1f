"""Model folders that are damaged, pickled, incomplete or no models: one line each, nothing run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedrai.errors import ModelError
from fedrai.model import load, load_backbone

WEIGHTS = "model.safetensors"


class Boom:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    body = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(body[: len(body) // 2])


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "deserializing header"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "deserializing header"),
    "missing": (
        lambda f: reweigh(f, lambda t: t.pop("model.layers.0.self_attn.q_proj.weight")),
        r"1 weights of Llama\w+ are missing and would be random, such as .*q_proj",
    ),
    "shapes": (lambda f: configure(f, intermediate_size=48), "do not match config.json"),
    "types": (lambda f: configure(f, hidden_size="x"), "cannot be loaded as a"),
    "torn": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON"),
    "code": (
        lambda f: configure(f, model_type="odd", auto_map={"AutoConfig": "x.Y",
                            "AutoModelForCausalLM": "x.Z", "AutoModel": "x.Z"}),
        "custom code",
    ),
    "adapter": (
        lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}'),
        "holds an adapter, expected a model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opened", [load, load_backbone])
def test_a_folder_that_cannot_be_used_is_named(
    case: str, opened: Callable[[str], object], folder: Path
) -> None:
    change, problem = CASES[case]
    change(folder)
    with pytest.raises(ModelError, match=problem) as error:
        opened(str(folder))
    assert "\n" not in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("opened", [load, load_backbone])
def test_pickled_weights_are_never_loaded(
    opened: Callable[[str], object], folder: Path, tmp_path: Path
) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"x": Boom(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle, which can run") as error:
        opened(str(folder))
    assert "save_pretrained" in error.value.hint
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_safetensors_is_passed_over(folder: Path, tmp_path: Path) -> None:
    torch.save({"x": Boom(tmp_path / "ran")}, folder / "pytorch_model.bin")
    load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_model_of_broken_numbers_is_named(folder: Path) -> None:
    reweigh(folder, poison)
    with pytest.raises(ModelError, match="weights are damaged: its logits are not finite"):
        load(str(folder))


@pytest.mark.parametrize("body", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"x" * 1000])
def test_a_damaged_gguf_is_named(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cut.gguf").write_bytes(body)
    with pytest.raises(ModelError, match=r"cut\.gguf is not a complete GGUF file") as error:
        load(str(tmp_path / "cut.gguf"))
    assert "\n" not in error.value.message
