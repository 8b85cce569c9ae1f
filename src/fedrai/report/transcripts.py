"""Answers to red-team requests, cut to what a report may show of them."""

from __future__ import annotations

import json
from pathlib import Path

from fedrai.assets import checksums
from fedrai.report.markup import shorten
from fedrai.report.records import Transcript
from fedrai.runs import RunFolder

RED_TEAM = ("advbench", "harmbench", "do-not-answer", "strongreject", "jailbreakbench")
"""Suites whose requests are public and the server's own; answers to others are never shown."""
SHOWN = 200  # characters of a request or an answer


def transcripts_of(
    folder: RunFolder, number: int, count: int
) -> tuple[tuple[Transcript, ...], int]:
    """The first answers of each red-team suite, and how many lines could not be read."""
    found: list[Transcript] = []
    unreadable = 0
    for suite in RED_TEAM if count else ():
        file = folder.evaluation_folder(number) / f"{suite}.jsonl"
        with_text = [_transcript(suite, line) for line in _lines(file, count)]
        found += [shown for shown in with_text if shown is not None]
        unreadable += with_text.count(None)
    return tuple(found), unreadable


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
