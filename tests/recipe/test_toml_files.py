"""TOML of others: every text is a table or one line that says why not, and none takes long."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import commands
from fedrai import recipe
from fedrai.constitution import load as load_constitution
from fedrai.data.embedded.refusals import load_refusals
from fedrai.deployment.setup import folder as consortium
from fedrai.deployment.setup import settings as deployment
from fedrai.errors import FedRAIError, RecipeError
from fedrai.recipe.toml_files import DEEPEST, LARGEST, parse_toml, read_toml
from fedrai.runs import RunFolder
from fedrai.runs.record import recipe_of

DEEP = "more than 32 deep"
BAD = {
    "lists 1,000 deep": ("a = " + "[" * 1000 + "]" * 1000, DEEP),
    "lists 33 deep": ("a = " + "[" * 33 + "]" * 33, DEEP),
    "tables 1,000 deep": ("a = " + "{a = " * 1000 + "1" + "}" * 1000, DEEP),
    "an integer of 5,000 digits": ("a = " + "9" * 5000, "more than 64 bits"),
    "a hexadecimal one": ("a = [0x" + "f" * 5000 + "]", "more than 64 bits"),
    "one bit too many": (f"a = {2**63}", "more than 64 bits"),
    "a key of 20,000 parts": (".".join(["a"] * 20_000) + " = 1", "line 1 has more than 2,000 dots"),
    "a key of 40 parts": ("\nb = 1\n" + ".".join(["a"] * 40) + " = 1", "line 3: a key has more"),
    "a quoted one": (' . '.join(['"a"'] * 40) + " = 1", "line 1: a key has more"),
    "in a header": ("[[" + ".".join(["a"] * 40) + "]]", "line 1: a key has more"),
    "in an inline table": ("x = {" + ".".join(["a"] * 40) + " = 1}", "line 1: a key has more"),
    "too many bytes": ("#" * (LARGEST + 1), "more than 4,000,000 bytes"),
    "no TOML": ("a = ", "Invalid value"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_every_reader_reports_limits_in_one_line(name: str, tmp_path: Path) -> None:
    text, why = BAD[name]
    for file in ("recipe.toml", "deployment.toml", "consortium.toml"):
        (tmp_path / file).write_text(text)
    file = tmp_path / "recipe.toml"
    readers = [
        lambda: recipe.load(file),
        lambda: recipe.load_node(file),
        lambda: recipe.load_guards(file),
        lambda: recipe.load_training(file),
        lambda: recipe.load_alignment(file),
        lambda: load_refusals(file),
        lambda: load_constitution(file),
        lambda: deployment.read(tmp_path),
        lambda: consortium.read(tmp_path),
        lambda: recipe_of(RunFolder(tmp_path)),
    ]
    began = time.process_time()
    for number, read in enumerate(readers):
        if name == "too many bytes" and number == 6:
            continue  # a constitution is read by a reader of its own
        with pytest.raises(FedRAIError) as caught:
            read()
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 500
        assert why in caught.value.message or number in (8, 9)  # these do not say why
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("seed=" + "9" * 5000, "-o seed=...: a whole number in it has more than 64 bits"),
        ("seed=" + "[" * 1000 + "]" * 1000, f"-o seed=...: its tables or lists are {DEEP}"),
        ("seed={" + ".".join(["a"] * 40) + "=1}", "-o seed=...: line 1: a key has more than 32"),
        ("arms." + ".".join(["a"] * 2000) + "=1", "=...: a key has more than 32 parts"),
    ],
)
def test_overrides_have_the_same_limits(override: str, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load(Path("quickstart"), [override])
    assert why in caught.value.message
    assert len(caught.value.message) < 500


def test_many_wrong_keys_are_counted(tmp_path: Path) -> None:
    call = commands(tmp_path)
    (tmp_path / "r.toml").write_text("\n".join(f"a{n}.b = 1" for n in range(20_000)))
    began = time.process_time()
    ended = call("recipe", "show", "r.toml")
    assert time.process_time() - began < 3.5
    assert ended.code == 2
    assert "section [model] is missing" in ended.err
    assert "unknown key a0 (known:" in ended.err
    assert "; and 19,982 more\n" in ended.err
    assert len(ended.err) < 8000


def test_long_values_are_truncated_in_errors(tmp_path: Path) -> None:
    text = Path(recipe.shipped()["quickstart"]).read_text()
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(
            tmp_path / "r.toml", ["seed='" + "x" * 100_000 + "'", "filter.mode=" + "y" * 9999]
        )
    assert len(caught.value.message) < 2000


@given(st.text(alphabet="ab.=[]{}\"'# \n1,_-", max_size=60))
def test_tables_are_the_same_as_tomllibs(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(tomllib.TOMLDecodeError):
            parse_toml(text)
        return
    assert parse_toml(text) == expected  # 60 characters cannot be too deep


def test_ordinary_texts_are_within_the_limits(tmp_path: Path) -> None:
    words = [f"w{n}.example" for n in range(50)]
    line = f"words = {words!r} # {'. ' * 500}".replace("'", '"')
    numbers = f"largest = {2**63 - 1}\nleast = {-(2**63) + 1}"
    text = f"[{'.'.join(['a'] * (DEEPEST - 1))}]\n{line}\n{numbers}\n"
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    assert read_toml(tmp_path / "x.toml") == tomllib.loads(text)


def test_shipped_files_are_within_the_limits() -> None:
    for file in [*recipe.shipped().values(), *recipe.shipped(alignments=True).values()]:
        assert read_toml(file) == tomllib.loads(file.read_text())
