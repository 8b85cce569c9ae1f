"""Arms over seeds: what finished runs say about each arm, and about each against another.

    layout.py        where the runs of a comparison lie
    reading.py       a run folder -> its figures and, prompt by prompt, its outcomes
    measures.py      what is measured, how it is called, on which suite's answers it is counted
    figures.py       an arm's mean over its seeds, with an interval
    differences.py   one arm less another on the same prompts and seeds
    tables.py        both as rows of text: terminal, Markdown, CSV, LaTeX
    writing.py       the files beside the runs

Reads folders only and loads no model. Intervals of several seeds are those of
`evaluation.bootstrap`; what they cannot cover is said there.
"""
