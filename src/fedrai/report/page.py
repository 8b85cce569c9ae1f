"""The page: one file with its style and script inside, which a content policy pins by their hash.

Nothing is fetched and nothing but the page's own script runs, whatever the text of a run holds. The
same runs give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from fedrai.report import clients, results, server_side
from fedrai.report.arms import arms, shown, styles
from fedrai.report.charts import swatch
from fedrai.report.markup import Markup, escape, tag
from fedrai.report.records import Answers, Compared
from fedrai.runs.record import RunRecord

SECTIONS = (
    ("verdict", "Verdict"),
    ("over-seeds", "Arms"),
    ("curves", "By round"),
    ("arms", "Side by side"),
    ("filter", "Filter"),
    ("updates", "Updates"),
    ("constitution", "Constitution"),
    ("cost", "Cost"),
    ("transcripts", "Answers"),
    ("provenance", "Provenance"),
)


def page(
    runs: Sequence[RunRecord], comparisons: Sequence[Compared] = (), answers: Sequence[Answers] = ()
) -> str:
    """The report of some runs as HTML.

    Args:
        runs: at least one.
        comparisons: what `fedrai compare` left beside them.
        answers: to red-team requests, of each run; none: the section is left out.
    """
    style, script = _part("page.css"), _part("page.js")
    sections = [
        results.verdicts(runs),
        arms(runs, comparisons) if shown(runs, comparisons) else None,
        results.curves(runs),
        results.side_by_side(runs),
        clients.filters(runs),
        clients.updates(runs),
        server_side.constitutions(runs),
        server_side.costs(runs),
        server_side.transcripts(runs, answers) if answers else None,
        server_side.provenance(runs),
    ]
    named = runs[0].label if len(runs) == 1 else f"{len(runs)} runs"
    return Template(_part("page.html")).substitute(
        policy=escape(_policy(style, script)),
        style=style,
        script=script,
        title=escape(f"FedRAI report: {named}"),
        navigation=_navigation(
            {"transcripts": bool(answers), "over-seeds": shown(runs, comparisons)}
        ),
        arms=_arms(runs),
        main=tag("main", sections, id="main", tabindex=-1),
    )


def _part(name: str) -> str:
    return (files("fedrai.report") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Own style and script only, by their hash (Content Security Policy Level 3, W3C)."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _navigation(there: Mapping[str, bool]) -> Markup:
    """Links to the sections, without those that are not there."""
    links = [
        tag("li", tag("a", name, href=f"#{place}"))
        for place, name in SECTIONS
        if there.get(place, True)
    ]
    return tag("nav", tag("ul", links), aria_label="Sections")


def _arms(runs: Sequence[RunRecord]) -> Markup:
    """Boxes that show and hide runs; none for a single one."""
    if len(runs) < 2:
        return Markup("")
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", checked=True, value=place, autocomplete="off"),
            swatch(style),
            run.label,
        )
        for place, (run, style) in enumerate(zip(runs, styles(runs), strict=True))
    ]
    return tag("fieldset", tag("legend", "Runs shown"), boxes, id="shown")
