"""Answers to red-team requests, cut to what a report may show of them."""

from __future__ import annotations

import json
from pathlib import Path

from fedrai.assets import checksums
from fedrai.report.markup import shorten
from fedrai.report.records import Answers, Transcript
from fedrai.runs import RunFolder
from fedrai.runs.record import RunRecord

RED_TEAM = ("advbench", "harmbench", "do-not-answer", "strongreject", "jailbreakbench")
"""Suites whose requests are public and the server's own; answers to others are never shown."""
SHOWN = 200  # characters of a request or an answer


def answers_of(run: RunRecord, count: int) -> Answers:
    """The first answers of each red-team suite in the last evaluation of a run.

    Args:
        run: the run.
        count: how many of each suite.
    """
    number = max((one.number for one in run.evaluations), default=0)
    folder = RunFolder(run.path).evaluation_folder(number)
    found = [
        _transcript(suite, line)
        for suite in RED_TEAM
        for line in _lines(folder / f"{suite}.jsonl", count)
    ]
    return Answers(number, tuple(one for one in found if one is not None), found.count(None))


def _lines(file: Path, count: int) -> list[str]:
    if not file.is_file():
        return []
    checksums.check_file(file)
    with file.open(encoding="utf-8", errors="replace", newline="\n") as opened:
        return [line for _, line in zip(range(count), opened, strict=False)]


def _transcript(suite: str, line: str) -> Transcript | None:
    try:
        body = json.loads(line)
        prompt, answer = body["prompt"], body["answer"]
        number, reply = int(body["number"]), str(body["reply"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    if not (isinstance(prompt, str) and isinstance(answer, str)):
        return None
    shown = [shorten(text, SHOWN) for text in (prompt, answer)]
    return Transcript(suite, number, shown[0], shown[1], len(answer), reply)
