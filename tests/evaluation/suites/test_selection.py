"""From names to suites: groups, paths, and names that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrai.errors import AssetError, EvaluationError
from fedrai.evaluation.suites import NotAvailable, Suite, select
from fedrai.evaluation.suites.selection import expand


def write(file: Path, *rows: dict[str, str]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("specs", "paths", "expected"),
    [
        (["hhh"], {}, ["hhh"]),
        (["hhh=a"], {"hhh": "b"}, ["hhh=a"]),
        (["hhh"], {"hhh": "b"}, ["hhh=b"]),
        (["xstest"], {}, ["xstest-safe", "xstest-unsafe"]),
        (["xstest=d"], {}, ["xstest-safe=d", "xstest-unsafe=d"]),
        (["xstest-safe"], {"xstest": "d"}, ["xstest-safe=d"]),
        (["xstest"], {"xstest": "d", "xstest-safe": "e"}, ["xstest-safe=e", "xstest-unsafe=d"]),
        (["my/file.jsonl", "hf:a/b=c"], {"hhh": "b"}, ["my/file.jsonl", "hf:a/b=c"]),
    ],
)
def test_groups_and_paths(specs, paths, expected):
    assert list(expand(specs, paths)) == expected


def test_own_suites_are_named_after_their_files(tmp_path):
    spec = write(tmp_path / "my set (1).jsonl", {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})
    (result,) = select([spec], {}, 2, 5)
    assert isinstance(result, Suite)
    assert result.declaration.name == "my-set-1"
    assert (len(result.items), result.whole) == (2, 3)
    assert select([spec], {}, 2, 5) == [result]


def test_two_suites_with_one_name_are_an_error(tmp_path):
    specs = [write(tmp_path / place / "mine.jsonl", {"prompt": "a"}) for place in ("a", "b")]
    with pytest.raises(EvaluationError, match="two suites have the name mine"):
        select(specs, {}, 0, 0)
    with pytest.raises(EvaluationError, match="the name ordinary is reserved"):
        select([write(tmp_path / "ordinary.jsonl", {"prompt": "a"})], {}, 0, 0)


def test_a_path_without_a_suite_is_an_error():
    with pytest.raises(EvaluationError, match=r"evaluation\.paths\.xtest: there is no such suite"):
        select([], {"xtest": "d"}, 0, 0)


def test_unavailable_suites_keep_their_place(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    own = write(tmp_path / "mine.jsonl", {"prompt": "a", "label": "unsafe"})
    missing, here, also = select(["strongreject", own, "hhh"], {}, 0, 0)
    assert isinstance(missing, NotAvailable)
    assert isinstance(also, NotAvailable)
    assert isinstance(here, Suite)
    with pytest.raises(AssetError):
        select(["strongreject"], {"strongreject": str(tmp_path / "nowhere")}, 0, 0)
