"""Other evaluation tools on FedRAI's models and suites; each needs an optional extra.

`harness`: lm-evaluation-harness on a run, an adapter or a model. `inspect_tasks`: FedRAI's suites
as tasks of Inspect AI, which finds them by the package's entry point.
"""
