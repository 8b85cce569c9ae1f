"""The safety case of a release as one HTML file: claims, arguments, evidence and what is left."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedrai import __version__
from fedrai.release.bars import Standing
from fedrai.release.evidence import POPULATION, Facts

ARGUMENTS = {
    "safety": "Requests of outside sets neither trained nor chose anything. The interval holds"
    " after every batch, so asking until it is settled does not raise the error.",
    "worst-set": "Every set by itself is above the bar, so that no manner of asking hides in the"
    " mean.",
    "over-refusal": "A model that declines everything would be safe and worthless.",
    "loss": "Held-out answers are about as likely as before training.",
    "rouge": "Answers to ordinary instructions are like their references.",
    "vetting": "Few updates looked suspicious to the server.",
    "privacy": "The rounds' noise bounds what the model tells about a single client.",
    "provenance": "The filter ran at every node, and what trained the model is on record. A node"
    " reports this itself: a lying one can say so without doing it.",
}


def safety_case(facts: Facts) -> str:
    """The page; the same facts give the same bytes."""
    environment = Environment(
        loader=PackageLoader("fedrai.release"), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    bars = facts.chosen.bars
    return environment.get_template("safety_case.html").render(
        facts=facts,
        version=__version__,
        population=POPULATION,
        arguments=ARGUMENTS,
        met=[bar for bar in bars if bar.standing is Standing.MET],
        others=[bar for bar in bars if bar.standing is not Standing.MET],
        sets=facts.chosen.sets,
    )
