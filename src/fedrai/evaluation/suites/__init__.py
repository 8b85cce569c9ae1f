"""What is asked: declared suites, suites of one's own, and ordinary instructions.

    suite = suites.load("xstest-safe=data/xstest_prompts.csv")
    if isinstance(suite, suites.NotAvailable):
        print(suite.reason, suite.hint)

`declared` says what there is, `reading` knows the layouts of files, `loading` puts them together.
Nothing here answers or judges; a suite that cannot be had is `NotAvailable`, never an empty one.
"""

from fedrai.evaluation.suites.declared import ADVBENCH, ADVBENCH_SIZE, Declaration, declared_suites
from fedrai.evaluation.suites.items import Item, ordinary
from fedrai.evaluation.suites.loading import NotAvailable, Suite, advbench, load
from fedrai.evaluation.suites.local import local_checksums, prompts_of, trained_on
from fedrai.evaluation.suites.selection import GROUPS, expand, select

__all__ = [
    "ADVBENCH",
    "ADVBENCH_SIZE",
    "GROUPS",
    "Declaration",
    "Item",
    "NotAvailable",
    "Suite",
    "advbench",
    "declared_suites",
    "expand",
    "load",
    "local_checksums",
    "ordinary",
    "prompts_of",
    "select",
    "trained_on",
]
