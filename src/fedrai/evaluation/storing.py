"""An evaluation's answers and figures as files of a run folder."""

from __future__ import annotations

from pathlib import Path

from fedrai.evaluation.figures import figures
from fedrai.evaluation.records import EvaluationResult
from fedrai.runs import RunFolder
from fedrai.runs.files import json_line, json_text, write_text


def write_evaluation(run: RunFolder, target: Path, result: EvaluationResult) -> None:
    """Write an evaluation's answers and figures into a new folder."""

    def write(folder: Path) -> None:
        for suite, rows in result.rows().items():
            write_text(folder / f"{suite}.jsonl", "".join(map(json_line, rows)))
        write_text(folder / "metrics.json", json_text(figures(result)))

    run.write_folder(target, write)
