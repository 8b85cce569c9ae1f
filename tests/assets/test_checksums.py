"""Lists of checksums: what `sha256sum` reads, looked at where a file is read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.assets import checksums
from fedrai.assets.checksums import LISTING
from fedrai.errors import ChecksumError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, "abc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, text in (("a.txt", "abc"), ("deep/b.txt", "b"), ("deep/er/c.txt", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / LISTING).write_text(checksums.listing(tmp_path))
    return tmp_path


def test_a_list_is_that_of_sha256sum(folder: Path) -> None:
    lines = (folder / LISTING).read_text().splitlines()
    assert lines[0] == f"{ABC}  a.txt"
    assert [line.split("  ")[1] for line in lines] == ["a.txt", "deep/b.txt", "deep/er/c.txt"]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--strict", "-c", LISTING], cwd=folder, check=True)


@given(st.sampled_from(["a.txt", "deep/b.txt"]), st.binary(max_size=4))
def test_a_changed_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, body: bytes
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "deep").mkdir()
    for each, text in (("a.txt", b"abc"), ("deep/b.txt", b"b")):
        (folder / each).write_bytes(text)
    (folder / LISTING).write_text(checksums.listing(folder))
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(body)
    if body == before:
        checksums.check_file(folder / name)
        checksums.check_bytes(folder / name, body)
        assert checksums.changed(folder) == []
        return
    for check in (checksums.check_file, lambda path: checksums.check_bytes(path, body)):
        with pytest.raises(ChecksumError, match="is damaged: its SHA-256 differs"):
            check(folder / name)
    assert checksums.changed(folder) == [name]


def test_unlisted_files_are_not_checked(folder: Path, tmp_path: Path) -> None:
    (folder / "new.txt").write_text("new")
    checksums.check_file(folder / "new.txt")
    (folder / LISTING).unlink()
    (folder / "a.txt").write_text("changed")
    checksums.check_file(folder / "a.txt")
    assert checksums.changed(folder) == []


@pytest.mark.parametrize(
    "text",
    [
        "no list\n",
        f"{ABC} a.txt\n",
        f"{ABC}  ../a.txt\n",
        f"{ABC}  /a.txt\n",
        f"{ABC[:-1]}  a.txt\n",
    ],
)
def test_a_damaged_list_is_named(text: str, folder: Path) -> None:
    (folder / LISTING).write_text(f"{ABC}  x\n{text}\n")
    with pytest.raises(ChecksumError, match=f"{LISTING} is damaged: line 2 is not a checksum"):
        checksums.check_file(folder / "a.txt")
    assert checksums.changed(folder) == [LISTING]
    (folder / LISTING).write_bytes(b"\xff")
    assert checksums.changed(folder) == [LISTING]


def test_a_missing_file_has_changed(folder: Path) -> None:
    (folder / "deep/b.txt").unlink()
    assert checksums.changed(folder) == ["deep/b.txt"]
    assert checksums.changed(folder, "a.txt") == []


def test_a_list_grows_by_a_file_that_is_written_later(folder: Path) -> None:
    (folder / LISTING).write_text(checksums.with_text(folder, "z.json", "abc"))
    assert (folder / LISTING).read_text().endswith(f"{ABC}  z.json\n")
    assert checksums.changed(folder) == ["z.json"]
    (folder / "z.json").write_text("abc")
    assert checksums.changed(folder) == []
