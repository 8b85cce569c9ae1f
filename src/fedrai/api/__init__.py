"""FedRAI in Python: what the commands do, as functions that return records.

`import fedrai` offers these names; see docs/python.md. Each function does what its command does,
takes the same names (a recipe's file or name, a guard's name, a dataset), and raises the same
errors (`fedrai.FedRAIError` and its subclasses). Nothing is printed unless `progress` is true.

Records hold lists of flat dicts, which `pandas.DataFrame(...)` takes as they are.
"""

from fedrai.api.aligning import Alignment, align, read_alignment
from fedrai.api.comparing import Comparison, compare
from fedrai.api.judging import Judged, judge
from fedrai.api.membership import check_membership
from fedrai.api.running import Run, load_recipe, read_run, resume, run
from fedrai.api.scanning import Scan, scan

__all__ = [
    "Alignment",
    "Comparison",
    "Judged",
    "Run",
    "Scan",
    "align",
    "check_membership",
    "compare",
    "judge",
    "load_recipe",
    "read_alignment",
    "read_run",
    "resume",
    "run",
    "scan",
]
