"""The benchmarks of evaluation on a tiny random model: HHH against transformers, speed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from driver import fill_cache
from fedrai.evaluation.preference import Choice
from fedrai.evaluation.suites import Item

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import evaluation_speed
import hhh_oracle

TALK = "May I ask?\n\nAssistant: Please do.\n\nStill me.\n\nHuman: Is it far?"
PAIRS = [
    {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
    {"prompt": TALK, "chosen": "I do not know", "rejected": "Two miles,\n\nor three at most"},
    {"prompt": "Two parts.\n\nOf one turn: why?", "chosen": "Äh 🏔️", "rejected": "x" * 40},
]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    file = tmp_path / "pairs.jsonl"
    rows = [PAIRS[n % 3] | {"prompt": PAIRS[n % 3]["prompt"] + "?" * n} for n in range(9)]
    rows.append({"prompt": "long", "chosen": "y" * 300, "rejected": "z"})  # beyond 256 positions
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hhh_is_that_of_plain_transformers(
    tiny_model: Path, pairs: str, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hhh_oracle.main([str(tiny_model), "--suite", pairs, "--dtype", dtype]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"9 of 10 pairs, {dtype}")
    assert said.endswith("  agree\n")


def test_the_oracle_takes_dialogues_apart_by_itself() -> None:
    assert hhh_oracle.dialogue(TALK) == [
        {"role": "user", "content": "May I ask?"},
        {"role": "assistant", "content": "Please do.\n\nStill me."},
        {"role": "user", "content": "Is it far?"},
    ]
    assert hhh_oracle.dialogue("Human: mine.\n\nAnd more") == [
        {"role": "user", "content": "Human: mine.\n\nAnd more"}
    ]


class OffByOne(hhh_oracle.Peer):
    """A peer whose answers are a nat likelier if they are long."""

    def read(self, prompt: str, answer: str) -> tuple[float, int]:
        value, tokens = super().read(prompt, answer)
        return value + (len(answer) > 5), tokens


def test_a_difference_is_found(tiny_model: Path) -> None:
    item = Item(0, "Why?", chosen="Because.", rejected="No.")
    peer = OffByOne(tiny_model, "float32")
    (value, tokens), (other, few) = (peer.read("Why?", text) for text in (item.chosen, "No."))
    right = Choice(0, "", value - 1, other, tokens, few)
    found = hhh_oracle.compare([right], [item], peer, "float32")
    assert found.sums == pytest.approx(1, abs=1e-4)
    assert not hhh_oracle.agrees(found, "float32")
    same = Choice(0, "", value, other, tokens, few)
    assert hhh_oracle.agrees(hhh_oracle.compare([same], [item], peer, "float32"), "float32")


def test_choices_that_rounding_does_not_explain_are_counted() -> None:
    margins = [(0.5, 0.5), (1e-4, -1e-4), (0.5, -0.5)]
    assert hhh_oracle.differs(margins, [2e-3] * 3) == (2, 1)


def test_speed_is_a_ratio_of_the_same_work(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    ratio = evaluation_speed.main(
        ["--model", str(tiny_model), "--prompts", "24", "--sample", "2", "--max-new-tokens", "4"]
    )
    said = capsys.readouterr().out
    assert re.search(r"^24 prompts: [\d.]+ s, [\d.]+ prompts/s \(safe .*, safe-legacy ", said)
    assert re.search(rf"ratio {ratio:.2f} ", said)
    assert ratio > 0
