"""Run folders -> one HTML file that works offline. Recomputes nothing, loads no model.

    read.py          folders -> the records of their runs (runs.record), in order and named
    verdict.py       safe? useful? at what cost, against what?
    arms.py  results.py  clients.py  server_side.py    records -> sections
    figures.py  markup.py                     drawings, and the one place where text is escaped
    page.py          sections -> page, with page.html, page.css and page.js

Does not test whether runs differ: it shows intervals, and says whether they touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrai.errors import RunError
from fedrai.report.arms import read_comparisons
from fedrai.report.page import page
from fedrai.report.read import read_runs
from fedrai.report.transcripts import answers_of
from fedrai.runs.files import write_text


def build(runs: Sequence[Path], out: Path, *, transcripts: int = 0) -> Path:
    """Write the report of some runs.

    Args:
        runs: run folders, or folders of runs such as `fedrai compare` leaves.
        out: the HTML file; one that is there is replaced.
        transcripts: how many answers to the server's own red-team requests to show of each suite
            and run; 0: none.

    Returns:
        `out`.

    Raises:
        RunError: there is no run, a file of one is damaged, or `out` cannot be written.
    """
    found = read_runs(runs)
    answers = [answers_of(run, transcripts) for run in found] if transcripts > 0 else []
    text = page(found, read_comparisons(runs), answers)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise RunError(
            f"cannot write {out}: {error.strerror or error}", hint="--out names another file"
        ) from error
    return out
