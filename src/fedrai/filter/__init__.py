"""The safety filter: a client's rows -> kept rows and a ledger; `scan` for any dataset."""

from fedrai.filter.rows import FilterResult, Policy, SafetyFilter, answers

__all__ = [
    "FilterResult",
    "Policy",
    "SafetyFilter",
    "answers",
]
