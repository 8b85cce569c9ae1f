"""Arms over seeds: the figures of each arm in finished runs, and each arm against another.

    layout.py        the runs of a comparison, and their folders
    running.py       runs them one after the other
    reading.py       a run folder -> its figures and, prompt by prompt, its outcomes
    figures.py       an arm's mean over its seeds, with an interval
    differences.py   one arm less another on the same prompts and seeds
    tables.py        both as rows of text: terminal, Markdown, CSV, LaTeX
    writing.py       the files beside the runs

All but running.py only read folders and load no model. `evaluation.bootstrap` documents the
intervals over seeds, and what they do not cover.
"""
