"""Files whole or not at all: strict JSON, tensors with a seal, notes of files that grow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import ChecksumError, RunError
from fedrai.runs import RunFolder, files
from fedrai.runs.costs import Cost, Ledger

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def without(value: Any) -> Any:
    """What a reader should find: None for numbers that are none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without(part) for key, part in value.items()}
    return [without(part) for part in value] if isinstance(value, list) else value


@given(VALUES)
def test_written_json_is_strict(value: Any) -> None:
    for text in (files.json_text(value), files.json_line(value)):
        assert strict(text) == without(value) == files.parse_json(text)
    assert files.json_line(value).count("\n") == 1


@given(VALUES)
def test_nan_of_earlier_versions_is_read_as_none(value: Any) -> None:
    assert files.parse_json(json.dumps(value)) == without(value)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"{", b"1e999x", b""])
def test_invalid_json_is_one_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        files.parse_json(text)
    assert files.parse_json("[1e999, -Infinity, NaN]") == [None, None, None]


def test_run_files_contain_finite_numbers_only(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "", {"name": "x", "loss": math.nan})
    run.event("round-finished", loss_last=math.inf)
    run.write_json("summary.json", {"costs": {"training": {"seconds": -math.inf}}})
    for file in run.path.glob("*.json*"):
        assert None in json.loads(file.read_text(), parse_constant=pytest.fail).values() or (
            file.name == "summary.json"
        )
    assert run.read_json("summary.json") == {"costs": {"training": {"seconds": None}}}


def test_unknown_costs_count_as_zero() -> None:
    ledger = Ledger({"training": {"seconds": None, "tokens": 3}})
    ledger.add("training", Cost(1.5, 4))
    assert ledger.phases == {"training": Cost(1.5, 7)}


# --- seals ----------------------------------------------------------------------------------------

TENSORS = {"a": torch.tensor([1.0, -0.0]), "b": torch.tensor([[1, 2]]), "c": torch.zeros(0, 2)}
HALF = {"h": torch.tensor([1.0, 2.0]).bfloat16(), "s": torch.tensor(3.0)}


def test_a_sealed_file_round_trips(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for tensors in (TENSORS, HALF):
        files.save_sealed(file, tensors, {"trace": "[1]"})
        found, note = files.load_sealed(file)
        assert note == {"trace": "[1]"}
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_any_flipped_bit_of_a_sealed_file_is_detected(tmp_path: Path) -> None:
    """Every one of them: it is not readable, or not what was sealed, or reads the same."""
    file = tmp_path / "x.safetensors"
    files.save_sealed(file, TENSORS, {"m": "1"})
    body = file.read_bytes()
    refused = 0
    for place in range(8 * len(body)):
        hurt = bytearray(body)
        hurt[place // 8] ^= 1 << place % 8
        file.write_bytes(hurt)
        try:
            found, note = files.load_sealed(file)
        except (RunError, ChecksumError):
            refused += 1
            continue
        note = {name: value for name, value in note.items() if value == "1"}
        assert note == {"m": "1"}
        assert files.digest_of(found) == files.digest_of(TENSORS)
    assert refused > 0.9 * 8 * len(body)


@pytest.mark.parametrize("size", [0, 1, 8, 100])
def test_a_cut_file_of_tensors_is_one_error(size: int, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    files.save_tensors(file, TENSORS, {})
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RunError, match=r"x\.safetensors is not a safetensors file, or damaged"):
        files.load_tensors(file)
    file.unlink()
    with pytest.raises(RunError, match=r"x\.safetensors not found"):
        files.load_tensors(file)


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=9), st.data())
def test_a_growing_file_is_read_up_to_its_seal(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, more: bytes, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("grows") / "records.jsonl"
    file.write_bytes(body)
    assert files.sealed_part(file) == body
    files.seal(file)
    file.write_bytes(body + more)  # a chunk that was half written when the process ended
    assert files.sealed_part(file) == body
    place = data.draw(st.integers(0, 8 * len(body) - 1))
    hurt = bytearray(body)
    hurt[place // 8] ^= 1 << place % 8
    for damaged in (bytes(hurt), body[: place // 8]):
        file.write_bytes(damaged)
        with pytest.raises(ChecksumError, match=r"records\.jsonl is damaged"):
            files.sealed_part(file)
    file.unlink()
    with pytest.raises(ChecksumError):
        files.sealed_part(file)


def test_digests_are_the_same_as_in_earlier_versions() -> None:
    """Runs know the adapter that they started from by it."""
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[0.5]])}
    assert files.digest_of(state) == (
        "2be758345a6f419ff9c71349a2b8a9d8485caa151394a4cd44d78284a711afe2"
    )


def test_a_file_is_written_whole_with_its_permissions(tmp_path: Path) -> None:
    place = tmp_path / "key"
    place.write_text("before")
    (tmp_path / ".new-key").write_text("of a process that was killed")
    files.write_bytes(place, b"secret", mode=0o600)
    assert (place.read_bytes(), place.stat().st_mode & 0o777) == (b"secret", 0o600)
    with pytest.raises(FileNotFoundError), files.new_file(place, shared=True):
        pass  # nothing was written
    assert [f.name for f in tmp_path.iterdir()] == ["key"]
    assert place.read_bytes() == b"secret"


def test_a_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for text in ("one", "two"):
        with files.new_folder(target, replaces=True) as fresh:
            (fresh / text).write_text(text)
    with pytest.raises(OSError, match="not empty"), files.new_folder(target):
        pass
    assert [f.name for f in target.parent.rglob("*")] == ["folder", "two"]
