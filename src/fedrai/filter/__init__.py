"""The safety filter: a client's rows -> kept rows and a ledger; `scan` for any dataset."""

from fedrai.filter.rows import Policy, Screened, answers, screen

__all__ = [
    "Policy",
    "Screened",
    "answers",
    "screen",
]
