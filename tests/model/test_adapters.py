"""Adapters in shards: what is written is read again, and damage is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedrai.errors import ChecksumError, ModelError
from fedrai.model import read_adapter, save_shards
from fedrai.model.adapters import INDEX, WEIGHTS

STATE = {f"layer.{n}.weight": torch.full((8, 4), n + 1 / 3) for n in (2, 0, 1)}
LIMIT = 400  # a tensor's file: 64 bytes of bfloat16 and a header of some 130 bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_shards(tmp_path, STATE, torch.bfloat16, LIMIT)
    return tmp_path


def index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text())


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    body = index(folder)
    edit(body)
    (folder / INDEX).write_text(json.dumps(body))


def test_shards_hold_the_tensors_in_order_below_the_limit(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))
    assert first.name == "adapter_model-00001-of-00002.safetensors"
    assert sorted(load_file(first)) == ["layer.0.weight", "layer.1.weight"]
    assert sorted(load_file(second)) == ["layer.2.weight"]
    assert all(file.stat().st_size <= LIMIT for file in (first, second))
    assert load_file(first)["layer.0.weight"].dtype == torch.bfloat16


def test_index_is_the_usual_one_with_checksums(folder: Path) -> None:
    content = index(folder)
    files = [f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert content["metadata"]["total_size"] == 3 * 8 * 4 * 2
    assert content["weight_map"] == {
        "layer.0.weight": files[0],
        "layer.1.weight": files[0],
        "layer.2.weight": files[1],
    }
    for file in files:
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert content["metadata"]["sha256"][file] == digest


def test_what_is_read_is_float32_and_rounded_once(folder: Path) -> None:
    state = read_adapter(folder)
    assert set(state) == set(STATE)
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, STATE[name].bfloat16().float())


@pytest.mark.parametrize("limit", [200, 250, 300, 450, 10_000])
def test_every_limit_gives_the_same_tensors(tmp_path: Path, limit: int) -> None:
    files = save_shards(tmp_path, STATE, torch.float32, limit + 64)
    assert all(file.stat().st_size <= limit + 64 for file in files)
    state = read_adapter(tmp_path)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_the_same_adapter_gives_the_same_bytes(folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    save_shards(other, dict(reversed(STATE.items())), torch.bfloat16, LIMIT)
    for file in folder.iterdir():
        assert (other / file.name).read_bytes() == file.read_bytes()


def test_writing_again_leaves_no_old_weights(folder: Path) -> None:
    save_file({"old": torch.zeros(1)}, folder / WEIGHTS)
    save_shards(folder, STATE, torch.bfloat16, 10_000)
    assert [f.name for f in folder.glob("*.safetensors")] == [
        "adapter_model-00001-of-00001.safetensors"
    ]
    assert set(read_adapter(folder)) == set(STATE)


def test_a_single_file_goes_before_an_index(folder: Path) -> None:
    save_file({"one": torch.zeros(1)}, folder / WEIGHTS)
    assert set(read_adapter(folder)) == {"one"}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layer.0.weight takes \d+ bytes, more than a shard's 99"):
        save_shards(tmp_path, STATE, torch.bfloat16, 99)
    with pytest.raises(ModelError, match="without tensors"):
        save_shards(tmp_path, {}, torch.bfloat16)
    assert not list(tmp_path.iterdir())


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "adapter_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"misses adapter_model-00002-of-00002\.safetensors"):
        read_adapter(folder)


def test_a_changed_shard_is_refused(folder: Path) -> None:
    file = folder / "adapter_model-00001-of-00002.safetensors"
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    with pytest.raises(ChecksumError, match=r"00001-of-00002.safetensors does not match"):
        read_adapter(folder)
    change(folder, lambda content: content["metadata"].pop("sha256"))
    assert set(read_adapter(folder)) == set(STATE)  # an index without checksums, as others write


def test_a_shard_whose_checksum_is_not_listed_is_refused(folder: Path) -> None:
    change(folder, lambda content: content["metadata"]["sha256"].popitem())
    with pytest.raises(ChecksumError):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda i: i["weight_map"].update(extra=next(iter(i["weight_map"].values()))), "extra is"),
        (
            lambda i: i["weight_map"].update(extra="../x.safetensors"),
            "must name files in the same folder",
        ),
        (lambda i: i["weight_map"].update(extra=3), "must name files in the same folder"),
        (lambda i: i.update(weight_map={}), "must name files in the same folder"),
        (lambda i: i.pop("weight_map"), "not an index of shards"),
        (lambda i: i.update(metadata=[]), "not an index of shards"),
    ],
)
def test_a_damaged_index_is_named(folder: Path, edit: Any, problem: str) -> None:
    change(folder, edit)
    with pytest.raises(ModelError, match=problem):
        read_adapter(folder)


def test_an_index_that_is_no_json(folder: Path) -> None:
    (folder / INDEX).write_text("{")
    with pytest.raises(ModelError, match="not an index of shards"):
        read_adapter(folder)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"expected {WEIGHTS}"):
        read_adapter(tmp_path)


def test_a_pickled_adapter_is_named_and_not_loaded(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle, which can run") as error:
        read_adapter(tmp_path)
    assert "save_pretrained" in error.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_named(value: float, tmp_path: Path) -> None:
    broken = {name: tensor.clone() for name, tensor in STATE.items()}
    broken["layer.1.weight"][3, 2] = value
    save_file(broken, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=r"layer\.1\.weight holds values that are not finite"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_cut_file_is_one_line(keep: int, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / WEIGHTS)
    body = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(body[:keep])
    with pytest.raises(ModelError, match="is not a complete safetensors file") as error:
        read_adapter(tmp_path)
    assert "\n" not in error.value.message
