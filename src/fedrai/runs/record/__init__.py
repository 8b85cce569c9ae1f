"""What a run folder holds, as frozen records: the only readers of a run's JSON.

    run.py           run.json and recipe.toml -> `RunRecord`, with all that follows
    screening.py     filter.json, clients/NAME.filter.json -> `ScreeningRecord`
    rounds.py        rounds/NNNN/round.json -> `RoundRecord`
    evaluations.py   evaluations/NNNN/metrics.json -> `EvaluationRecord`
    summary.py       the record of a run -> `Summary`, which is summary.json
    values.py        values of JSON that may be anything

Runs of earlier versions have less in their folders: what is missing is None, which stands for "not
recorded". What is damaged is an error.
"""

from fedrai.runs.record.evaluations import EvaluationRecord, Score
from fedrai.runs.record.rounds import AlignmentRecord, ProbeRecord, RoundRecord
from fedrai.runs.record.run import ConstitutionRecord, RunRecord, read, recipe_of
from fedrai.runs.record.screening import FilterCounts, ScreeningRecord
from fedrai.runs.record.summary import Summary, summarise, write_summary

__all__ = [
    "AlignmentRecord",
    "ConstitutionRecord",
    "EvaluationRecord",
    "FilterCounts",
    "ProbeRecord",
    "RoundRecord",
    "RunRecord",
    "Score",
    "ScreeningRecord",
    "Summary",
    "read",
    "recipe_of",
    "summarise",
    "write_summary",
]
