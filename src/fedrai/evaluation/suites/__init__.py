"""Suites of questions: declared ones, the user's own, and ordinary instructions.

    suite = suites.load("xstest-safe=data/xstest_prompts.csv")
    if isinstance(suite, suites.NotAvailable):
        print(suite.reason, suite.hint)

`declared` lists the suites, `reading` knows the layouts of files, `loading` makes a suite of both.
Nothing here answers or judges. A suite that cannot be read is `NotAvailable`, never empty.
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
