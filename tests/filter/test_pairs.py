"""Preference pairs in the filter and in a scan: what is judged, dropped, swapped and counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrai.filter import FilterResult, Policy, SafetyFilter
from fedrai.filter.ledger import COUNT_NAMES, ROW_CHANGES, FilterLedger, total
from fedrai.filter.pairs import PairCounts
from fedrai.filter.scan import CopyCounts, scan, write_copy
from fedrai.filter.screening import LabelGuard
from fedrai.guards.base import Conversation, VerdictBatch
from fedrai.guards.rows import from_memory
from fedrai.records import Example, Message, Verdict

SALT = bytes(range(32))


class Reading:
    """Reads the verdict from the last turn: "p=0.9", or none."""

    name, revision = "reading", "abcdef0123456789"

    def __init__(self) -> None:
        self.thresholds = {"strict": 0.5, "loose": 0.5}
        self.asked: list[str] = []

    def judge(
        self, conversations: Sequence[Conversation], on_progress: Any = lambda _done, _of: None
    ) -> VerdictBatch:
        self.asked += [talk[-1].content for talk in conversations]
        return VerdictBatch(tuple(map(self._say, conversations)), tokens=len(conversations))

    def _say(self, talk: Conversation) -> Verdict:
        found = re.search(r"p=([\d.]+)", talk[-1].content)
        if found is None:
            return Verdict(None, "reading", problem="unparsed")
        return Verdict(float(found[1]), "reading", ("fraud",))


def pair(
    chosen: str, rejected: str, *, harmful: bool = False, before: Sequence[str] = ()
) -> Example:
    turns = tuple(
        Message("user" if n % 2 == 0 else "assistant", text)
        for n, text in enumerate((*before, "do it"))
    )
    sides = ((*turns, Message("assistant", text)) for text in (chosen, rejected))
    good, bad = sides
    return Example(good, "rows.jsonl, line 1", "", harmful, "votes", bad)


SAFE = pair("p=0.1", "p=0.9 b")
BAD = pair("p=0.9 a", "p=0.2")
BOTH = pair("p=0.9 c", "p=0.8")
ODD = pair("hm", "p=0.1 x")
BAD_AND_ODD = pair("p=0.7", "hm too")
ROWS = [SAFE, BAD, BOTH, ODD, BAD_AND_ODD]


def run(rows: Sequence[Example], **options: Any) -> tuple[FilterResult, Reading]:
    guard = Reading()
    policy = Policy(0.5, options.pop("mode", "drop"), **options)
    return SafetyFilter(guard, policy, salt=SALT).screen(rows, 3), guard


def test_a_harmful_rejected_answer_is_as_it_should_be() -> None:
    result, guard = run(ROWS)
    assert result.kept == (SAFE,)
    assert guard.asked == ["p=0.1", "p=0.9 a", "p=0.9 c", "hm", "p=0.7"]  # chosen answers alone
    assert result.ledger.pairs == PairCounts(rows=5, unsafe=3, swapped=0, dropped=3)
    assert (result.ledger.unsafe, result.ledger.dropped, result.ledger.replaced) == (3, 4, 0)


@pytest.mark.parametrize("mode", ["drop", "replace"])
def test_swap_turns_a_pair_whose_other_answer_is_safe(mode: str) -> None:
    """The others leave; no answer of a pair is replaced by a refusal."""
    result, guard = run(ROWS, pairs="swap", mode=mode)
    first, second = result.kept
    assert first == SAFE
    assert (second.messages, second.rejected) == (BAD.rejected, BAD.messages)
    assert sorted(guard.asked[5:]) == ["hm too", "p=0.2", "p=0.8"]
    ledger = result.ledger
    assert ledger.pairs == PairCounts(rows=5, unsafe=3, swapped=1, dropped=2)
    assert (ledger.kept, ledger.dropped, ledger.replaced) == (2, 3, 0)
    assert result.tokens == 8
    assert len(ledger.removed) == 4


def test_audit_only_counts() -> None:
    result, guard = run(ROWS, mode="audit", pairs="swap")
    assert result.kept == tuple(ROWS)
    assert result.ledger.pairs == PairCounts(rows=5, unsafe=3, swapped=0, dropped=0)
    assert len(guard.asked) == 5


def test_turns_that_both_answers_share_are_not_judged() -> None:
    shared = pair("p=0.1", "p=0.2", before=("hi", "p=0.9 earlier"))
    assert run([shared])[0].kept == (shared,)


def test_the_counts_that_are_sent_name_swaps_only_where_there_are_pairs() -> None:
    ledger = run(ROWS, pairs="swap")[0].ledger
    assert set(ledger.counts()) == {*COUNT_NAMES, "swapped"}
    assert ledger.counts()["swapped"] == 1
    answer = Example(SAFE.messages, "rows.jsonl, line 2")
    assert set(run([answer])[0].ledger.counts()) == COUNT_NAMES
    assert "pairs" not in run([answer])[0].ledger.to_json()


@settings(max_examples=25)
@given(st.lists(st.sampled_from(ROWS), max_size=5), st.sampled_from(ROWS),
       st.sampled_from(["drop", "swap"]))  # fmt: skip
def test_one_pair_changes_few_counts_by_one(rows: list[Example], more: Example, pairs: str) -> None:
    """What the noise on counts relies on."""
    before, after = (
        run(part, pairs=pairs)[0].ledger.counts() for part in ([SAFE, *rows], [SAFE, *rows, more])
    )
    changes = {name: after[name] - before[name] for name in after}
    assert set(changes.values()) <= {0, 1}
    assert sum(changes.values()) <= ROW_CHANGES


def test_a_ledger_comes_back_as_it_was_written_and_adds_up() -> None:
    ledger = run(ROWS, pairs="swap")[0].ledger
    body = json.loads(json.dumps(ledger.to_json()))
    assert FilterLedger.from_json(body).pairs == ledger.pairs
    earlier = FilterLedger.from_json({k: v for k, v in body.items() if k != "pairs"})
    assert earlier.pairs is None
    assert total([ledger, earlier, ledger]).pairs == PairCounts(10, 6, 2, 4)


def test_labels_tell_by_the_chosen_answer() -> None:
    """A row of a harmful source has a harmful chosen answer; swapped, it has a safe one."""
    harmful, benign = pair("bad", "good", harmful=True), pair("fine", "bad")
    guard = LabelGuard([harmful, benign])
    policy = Policy(0.5, "drop", pairs="swap", experiment=True)
    result = SafetyFilter(guard, policy, salt=SALT).screen([harmful, benign], 3)
    assert [row.messages[-1].content for row in result.kept] == ["good", "fine"]
    assert result.ledger.confusion is not None
    assert (result.ledger.confusion.harmful_kept, result.ledger.confusion.benign_removed) == (0, 0)


# --- scan -----------------------------------------------------------------------------------------

FILE = [
    {"prompt": "q1", "chosen": "p=0.9 a", "rejected": "p=0.1 b"},
    {"prompt": "q2", "chosen": "p=0.1 c", "rejected": "p=0.9 d"},
    {"prompt": "q3", "chosen": "p=0.9 e", "rejected": "p=0.9 f"},
    {
        "chosen": "\n\nHuman: p=0.9\n\nAssistant: p=0.2",
        "rejected": "\n\nHuman: p=0.9\n\nAssistant: x",
    },
    {"prompt": "q5", "response": "p=0.9 g"},
]
Judged = Callable[[], tuple[Any, Any]]


def judged() -> tuple[Any, Any]:
    rows = from_memory(FILE, pairs=True)
    assert not rows.bad_rows
    assert rows.not_judged() == {}
    return rows.rows, scan(rows.rows, Reading(), threshold=0.5)


def test_a_scan_says_the_counts_of_both_answers() -> None:
    _, result = judged()
    assert (result.rows, result.unsafe.successes) == (5, 3)
    pairs = result.pairs
    assert (pairs.rows, pairs.chosen.successes, pairs.chosen.scored) == (4, 2, 4)
    assert (pairs.rejected.successes, pairs.rejected.scored, pairs.rejected.unscored) == (2, 3, 1)
    assert (pairs.both, pairs.swappable) == (1, 1)
    assert result.to_json()["pairs"]["swappable"] == 1
    plain = scan(from_memory(FILE[4:]).rows, Reading(), threshold=0.5)
    assert plain.pairs is None
    assert "pairs" not in plain.to_json()


def test_a_copy_may_swap_the_answers(tmp_path: Path) -> None:
    rows, result = judged()
    file = tmp_path / "copy.jsonl"
    counts = write_copy(rows, result.findings, file, "swap", rejected=result.rejected)
    assert counts == CopyCounts(written=3, dropped=2, replaced=1)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [{"prompt": "q1", "chosen": "p=0.1 b", "rejected": "p=0.9 a"}, FILE[1], FILE[3]]
    write_copy(rows, result.findings, file, "flag", rejected=result.rejected)
    flags = [
        json.loads(line).get("fedrai_rejected_unsafe") for line in file.read_text().splitlines()
    ]
    assert flags == [False, True, True, None, None]


def test_a_named_answer_is_read_alone() -> None:
    """And without `pairs` the command asks which of the answers it is."""
    from fedrai.errors import DataError
    from fedrai.guards.rows import ColumnNames

    (row,) = from_memory(FILE[:1], columns=ColumnNames(response="rejected"), pairs=True).rows
    assert [m.content for m in row.conversation] == ["q1", "p=0.1 b"]
    assert row.rejected == ()
    with pytest.raises(DataError, match="hold answers; name the one to judge"):
        from_memory(FILE[:1])
