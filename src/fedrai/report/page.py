"""The page: one file with its style and script inside, which a content policy pins by their hash.

Nothing is fetched and no script but the page's own runs, whatever text a run holds. The same runs
give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedrai.report import clients, results
from fedrai.report.arms import arms, styled
from fedrai.report.charts import Curve
from fedrai.report.constitution import constitutions
from fedrai.report.costs import costs
from fedrai.report.defences import defences
from fedrai.report.legends import legend
from fedrai.report.privacy import privacies
from fedrai.report.provenance import provenance
from fedrai.report.saved_comparison import SavedComparison
from fedrai.report.svg import printable
from fedrai.report.tables import MISSING
from fedrai.report.transcripts import LIMIT, Transcripts
from fedrai.report.vetting import vettings
from fedrai.runs.record import RunRecord


@dataclass(frozen=True, slots=True)
class PageSection:
    """A section of the page.

    Attributes:
        name: name of its template and its anchor.
        title: text of its heading.
        link: its text in the navigation.
        content: what its template shows; a section without content is left out.
    """

    name: str
    title: str
    link: str
    content: object


def page(
    runs: Sequence[RunRecord],
    comparisons: Sequence[SavedComparison] = (),
    transcripts: Sequence[Transcripts] = (),
) -> str:
    """The report of some runs as HTML.

    Args:
        runs: at least one.
        comparisons: those that `fedrai compare` wrote beside them.
        transcripts: answers to red-team requests, of each run; none: no such section.
    """
    style, script = _file("page.css"), _file("page.js")
    boxes = legend([Curve(run.label, style, (), place) for place, run, style in styled(runs)])
    sections = _sections(runs, comparisons, transcripts)
    html = environment().get_template("page.html").render(
        title=f"FedRAI report: {runs[0].label if len(runs) == 1 else f'{len(runs)} runs'}",
        policy=_policy(style, script),
        style=style,
        script=script,
        boxes=boxes if len(runs) > 1 else [],
        sections=[section for section in sections if section.content],
        missing=MISSING,
        stands_out=f"{clients.STANDS_OUT:g}",
        transcript_limit=LIMIT,
    )  # fmt: skip
    return printable(html)


def _sections(
    runs: Sequence[RunRecord],
    comparisons: Sequence[SavedComparison],
    transcripts: Sequence[Transcripts],
) -> list[PageSection]:
    return [
        PageSection("verdict", "Verdict", "Verdict", results.verdicts(runs, comparisons)),
        PageSection("over-seeds", "Arms", "Arms", arms(runs, comparisons)),
        PageSection("curves", "Safety and usefulness by round", "By round", results.curves(runs)),
        PageSection("arms", "Side by side", "Side by side", results.side_by_side(runs)),
        PageSection("rows", "What clients hold", "Rows", clients.holdings(runs)),
        PageSection("filter", "Safety filter", "Filter", clients.filters(runs)),
        PageSection("updates", "Clients' updates", "Updates", clients.updates(runs)),
        PageSection("privacy", "Privacy", "Privacy", privacies(runs)),
        PageSection("vetting", "Vetting of updates", "Vetting", vettings(runs)),
        PageSection("defences", "Defences", "Defences", defences(runs)),
        PageSection("constitution", "Constitution", "Constitution", constitutions(runs)),
        PageSection("cost", "Cost", "Cost", costs(runs)),
        PageSection("transcripts", "Answers to red-team requests", "Answers", transcripts),
        PageSection("provenance", "Provenance", "Provenance", provenance(runs)),
    ]


def environment() -> Environment:
    """Templates in which every text is escaped and an unknown name is an error."""
    return Environment(
        loader=PackageLoader("fedrai.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _file(name: str) -> str:
    return (files("fedrai.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Only its own style and script, by their hash (Content Security Policy Level 3, W3C)."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
