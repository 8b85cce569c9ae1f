"""The contents of a run folder as frozen records: the only readers of a run's JSON.

    run.py           a run folder -> `RunRecord`, which has all the others
    screening.py     filter.json, clients/NAME.filter.json -> `ScreeningRecord`
    rounds.py        rounds/NNNN/round.json -> `RoundRecord`
    vetting.py       the vetting in it -> `VettingRecord`
    attack.py        the attack in run.json -> `AttackRecord`
    preference.py    the preference tuning in it -> `PreferenceRecord`
    privacy.py       the noise in it, and its cost -> `PrivacyRecord`
    membership.py    membership/NNNN.json -> `MembershipRecord`
    defence.py       what defences did in a round -> `DefenceRecord`
    evaluations.py   evaluations/NNNN/metrics.json -> `EvaluationRecord`
    outside.py       the figures of outside sets in it -> `OutsideRecord`
    summary.py       the record of a run -> `Summary`, which is summary.json
    values.py        JSON values of unknown type

Earlier versions recorded less: what is missing is None, which means "not recorded". Damage is an
error.
"""

from fedrai.runs.record.attack import AttackRecord
from fedrai.runs.record.defence import DefenceRecord
from fedrai.runs.record.evaluations import EvaluationRecord, Score
from fedrai.runs.record.membership import MembershipRecord
from fedrai.runs.record.outside import MacroRate, OutsideRecord, OutsideSet
from fedrai.runs.record.preference import PreferenceRecord
from fedrai.runs.record.privacy import PrivacyRecord
from fedrai.runs.record.rounds import AlignmentRecord, MiningRecord, ProbeRecord, RoundRecord
from fedrai.runs.record.run import ConstitutionRecord, RunRecord, read, recipe_of
from fedrai.runs.record.screening import FilterCounts, ScreeningRecord
from fedrai.runs.record.summary import Summary, summarise, write_summary
from fedrai.runs.record.values import shared_rounds_text, skipped_rows_text
from fedrai.runs.record.vetting import VettingRecord

__all__ = [
    "AlignmentRecord",
    "AttackRecord",
    "ConstitutionRecord",
    "DefenceRecord",
    "EvaluationRecord",
    "FilterCounts",
    "MacroRate",
    "MembershipRecord",
    "MiningRecord",
    "OutsideRecord",
    "OutsideSet",
    "PreferenceRecord",
    "PrivacyRecord",
    "ProbeRecord",
    "RoundRecord",
    "RunRecord",
    "Score",
    "ScreeningRecord",
    "Summary",
    "VettingRecord",
    "read",
    "recipe_of",
    "shared_rounds_text",
    "skipped_rows_text",
    "summarise",
    "write_summary",
]
