"""lm-evaluation-harness on our models, and what is said where it cannot work."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fedrai.cli import cli
from fedrai.errors import DependencyError, EvaluationError
from fedrai.integrations import harness
from fedrai.integrations.harness import HarnessSettings
from fedrai.model import AdapterState, LanguageModel

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(
    not INSTALLED, reason="lm_eval is not installed (the extra lm-eval, not part of `test`)"
)
LOUD = pytest.mark.filterwarnings("ignore")  # those of the library

TASK = """\
task: two_ways
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/rows.jsonl}}
  cache_dir: {folder}/cache
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
"""
ROWS = [(f"{n}, {n * n} and then", [chr(98 + n) * 2, chr(121 - n) * 2], n % 2) for n in range(10)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of its own over ten rows, and one whose data is on the hub."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.dumps({"question": q, "choices": c, "label": n}) for q, c, n in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "two_ways.yaml").write_text(TASK.format(folder=folder))
    away = TASK.replace("two_ways", "far_away").replace("dataset_path: json", "dataset_path: no/no")
    away = "\n".join(line for line in away.splitlines() if "_kwargs" not in line and "  data_" not
                     in line and "  cache" not in line)  # fmt: skip
    (folder / "far_away.yaml").write_text(away.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def adapter(tiny: LanguageModel) -> AdapterState:
    draw = torch.Generator().manual_seed(7)
    return {n: torch.randn(p.shape, generator=draw) / 4 for n, p in tiny.parameters.items()}


def by_hand(model: LanguageModel, adapter: AdapterState) -> list[bool]:
    """Whether the right word is the likelier one after each question, by plain forward passes."""
    model.load_adapter(adapter)
    right = []
    for question, choices, label in ROWS:
        sums = []
        for word in choices:
            ids = model.tokenizer(f"{question} {word}", add_special_tokens=False)["input_ids"]
            start = len(model.tokenizer(question, add_special_tokens=False)["input_ids"])
            with torch.no_grad():
                logits = model.base(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(logits[i - 1, ids[i]].item() for i in range(start, len(ids))))
        right.append(sums.index(max(sums)) == label)
    return right


@needs_harness
@LOUD
def test_figures_are_those_of_plain_forward_passes(
    tiny: LanguageModel, adapter: AdapterState, tasks: Path
) -> None:
    result = harness.measure(
        tiny, adapter, ["two_ways"], HarnessSettings(include=tasks, batch_size=3)
    )
    right = by_hand(tiny, adapter)
    share = sum(right) / 10
    assert 0 < share < 1
    [score] = [s for s in result if s.metric == "acc"]
    assert (score.task, score.filter, score.value, score.count) == ("two_ways", "none", share, 10)
    assert score.stderr == pytest.approx(math.sqrt(share * (1 - share) / 9))  # n - 1: of a sample
    part = harness.measure(tiny, adapter, ["two_ways"], HarnessSettings(include=tasks, limit=4))
    assert [(s.value, s.count) for s in part if s.metric == "acc"] == [(sum(right[:4]) / 4, 4)]


@needs_harness
@LOUD
def test_the_adapter_counts(tiny: LanguageModel, adapter: AdapterState, tasks: Path) -> None:
    fresh = by_hand(tiny, tiny.fresh_adapter(0))
    assert sum(fresh) != sum(by_hand(tiny, adapter))
    result = harness.measure(tiny, None, ["two_ways"], HarnessSettings(include=tasks))
    assert [s.value for s in result if s.metric == "acc"] == [sum(fresh) / 10]


@needs_harness
@LOUD
def test_unknown_tasks_and_missing_data_are_errors(tiny: LanguageModel, tasks: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no task two_way$") as caught:
        harness.measure(tiny, None, ["two_way"], HarnessSettings(include=tasks))
    assert "two_ways" in caught.value.hint
    with pytest.raises(EvaluationError, match=r"the data of far_away is not available") as caught:
        harness.measure(tiny, None, ["far_away"], HarnessSettings(include=tasks))
    assert "hub" in caught.value.hint


@needs_harness
@LOUD
def test_the_command(tiny_model: Path, tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ["lm-eval", str(tiny_model), "--tasks", "two_ways", "--include", str(tasks)]
    done = CliRunner().invoke(cli, [*arguments, "--limit", "5", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "two_ways" in done.stdout
    assert "not to be compared with full results" in done.stdout
    printed = CliRunner().invoke(cli, [*arguments, "--limit", "5", "--json"])
    body = json.loads(printed.stdout)
    assert body == json.loads(out.read_text())
    assert [s["count"] for s in body["scores"] if s["metric"] == "acc"] == [5]


def test_without_the_harness_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(cli, ["lm-eval", "tiny", "--tasks", "arc_easy"])
    assert isinstance(done.exception, DependencyError)
    assert done.exception.hint == "pip install 'fedrai[lm-eval]'"


def test_out_needs_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(harness, "check", lambda: None)
    arguments = ["lm-eval", "tiny", "--tasks", "a", "--out", str(tmp_path / "no" / "file.json")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "there is no folder" in done.output
