"""An evaluation's answers and figures as files of a run folder."""

from __future__ import annotations

from pathlib import Path

from fedrai.evaluation.measure import EvaluationResult, figures
from fedrai.runs import RunFolder
from fedrai.runs.files import json_line, json_text, write_text


def write_evaluation(run: RunFolder, target: Path, measured: EvaluationResult) -> None:
    """Write an evaluation's answers and figures into a new folder."""

    def write(folder: Path) -> None:
        for suite, rows in measured.rows().items():
            write_text(folder / f"{suite}.jsonl", "".join(map(json_line, rows)))
        write_text(folder / "metrics.json", json_text(figures(measured)))

    run.write_folder(target, write)
