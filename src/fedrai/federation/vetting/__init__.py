"""Vetting: the server looks at every update of a round before it aggregates them.

    updates -> scores (one file each) -> honest tails -> suspicion -> action

A score gives one number a client; higher is more suspicious. `combining.py` turns the numbers of a
round into the probability that an honest client looks as bad, by tables that were measured on
honest clients alone (`honest.toml`, from `benchmarks/vetting.py`), and `verdicts.py` says who is
suspicious and why. `federation/run/vetting.py` builds it for a recipe. An installed package adds a
score by an entry point in `fedrai.vetting`; see docs/extending.md.

Scores that compare the clients of a round with each other need four updates and mostly honest ones:
where more than half of a round lies alike, its centre is theirs. `functional` and `linear` hold
each update against the start and against what the server trained itself, so they still work then.
"""
