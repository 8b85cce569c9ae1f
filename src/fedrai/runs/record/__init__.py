"""What a run folder holds, as frozen records: the only readers of a run's JSON.

    run.py           run.json and recipe.toml -> `Run`, with all that follows
    screening.py     filter.json, clients/NAME.filter.json -> `Screening`
    rounds.py        rounds/NNNN/round.json -> `Round`
    evaluations.py   evaluations/NNNN/metrics.json -> `Evaluation`
    values.py        values of JSON that may be anything

Runs of earlier versions have less in their folders: what is missing is None, which stands for "not
recorded". What is damaged is an error.
"""

from fedrai.runs.record.evaluations import Evaluation, Score
from fedrai.runs.record.rounds import Alignment, Probe, Round
from fedrai.runs.record.run import Constitution, Run, read, recipe_of
from fedrai.runs.record.screening import Removed, Screening

__all__ = [
    "Alignment",
    "Constitution",
    "Evaluation",
    "Probe",
    "Removed",
    "Round",
    "Run",
    "Score",
    "Screening",
    "read",
    "recipe_of",
]
