"""The run folder, what a run costs, and trackers."""

from fedrai.runs.files import write_text
from fedrai.runs.folder import SET_ASIDE, RunFolder, check_free, find_runs, write_error

__all__ = [
    "SET_ASIDE",
    "RunFolder",
    "check_free",
    "find_runs",
    "write_error",
    "write_text",
]
