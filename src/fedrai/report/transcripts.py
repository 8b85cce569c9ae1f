"""Answers to red-team requests, cut to what a report may show of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedrai.assets import checksums
from fedrai.report.svg import shorten
from fedrai.runs import RunFolder
from fedrai.runs.record import RunRecord

RED_TEAM = ("advbench", "harmbench", "do-not-answer", "strongreject", "jailbreakbench")
"""Suites of public requests that the server owns; answers to other suites are never shown."""
LIMIT = 200  # characters of a request or an answer


@dataclass(frozen=True, slots=True)
class Transcript:
    """An answer to a red-team request.

    Attributes:
        suite: suite of the request.
        number: number of the request in its suite.
        prompt: cut to `LIMIT`.
        answer: cut to `LIMIT`.
        length: length of the whole answer in characters.
        reply: the refusal judge's verdict.
    """

    suite: str
    number: int
    prompt: str
    answer: str
    length: int
    reply: str


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The answers of a run that a report shows.

    Attributes:
        label: label of the run.
        number: the evaluation they are from.
        answers: the answers, as many as were requested.
        unreadable: lines that cannot be read.
    """

    label: str
    number: int
    answers: tuple[Transcript, ...]
    unreadable: int


def transcripts_of(run: RunRecord, count: int) -> Transcripts:
    """The first answers of each red-team suite in the last evaluation of a run.

    Args:
        run: the run.
        count: how many of each suite.
    """
    number = max((one.number for one in run.evaluations), default=0)
    folder = RunFolder(run.path).evaluation_folder(number)
    answers = [
        _transcript(suite, line)
        for suite in RED_TEAM
        for line in _lines(folder / f"{suite}.jsonl", count)
    ]
    readable = tuple(answer for answer in answers if answer is not None)
    return Transcripts(run.label, number, readable, answers.count(None))


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
    return Transcript(
        suite, number, shorten(prompt, LIMIT), shorten(answer, LIMIT), len(answer), reply
    )
