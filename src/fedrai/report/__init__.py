"""Run folders -> one HTML file that works offline. Recomputes nothing, loads no model.

    read.py          folders -> the records of their runs (`runs.record`), in order and labelled
    verdict.py       safe? useful? at what cost, compared with what?
    arms.py  results.py  clients.py  constitution.py  costs.py  provenance.py  transcripts.py
                     records -> the content of a section, with tables.py and measures.py
    charts.py  legends.py  scales.py  svg.py    drawings
    page.py          content -> page; templates/ holds a template for each section, style and script
    flat.py          records -> rows of figures, for pandas
    picture.py       safety against over-refusal as an SVG file
    comparing/       arms over seeds

Does not test whether runs differ: it shows intervals, and says whether they touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrai.errors import RunError
from fedrai.report.page import page
from fedrai.report.read import read_runs
from fedrai.report.saved_comparison import read_comparisons
from fedrai.report.transcripts import transcripts_of
from fedrai.runs.files import write_text


def build(folders: Sequence[Path], out: Path, *, transcripts: int = 0) -> Path:
    """Write the report of some runs.

    Args:
        folders: run folders, or folders of runs such as the output of `fedrai compare`.
        out: the HTML file; an existing one is replaced.
        transcripts: how many answers to the server's own red-team requests to show for each suite
            and run; 0: none.

    Returns:
        `out`.

    Raises:
        RunError: no run was found, a file of one is damaged, or `out` cannot be written.
    """
    runs = read_runs(folders)
    answers = [transcripts_of(run, transcripts) for run in runs] if transcripts > 0 else []
    text = page(runs, read_comparisons(folders), answers)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise RunError(
            f"cannot write {out}: {error.strerror or error}", hint="--out names another file"
        ) from error
    return out
