"""The card of a model that `fedrai align` made: what it is, its figures, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from fedrai import __version__

ITEMS = {
    "requests": "red-team requests",
    "overlap_removed": "requests excluded because an evaluation asks nearly the same",
    "kept": "revisions that passed",
    "rows": "rows trained on",
    "pairs": "preference pairs",
}


def card(
    report: Mapping[str, Any],
    columns: Sequence[str],
    measured: Sequence[Sequence[str]],
    note: str = "",
) -> str:
    """The card in Markdown; names, counts and figures only.

    Args:
        report: as `report.json` holds it.
        columns: names of the measured figures.
        measured: rows of a name and those figures; empty if nothing was measured.
        note: what the figures do not prove; empty for nothing.
    """
    environment = Environment(
        loader=PackageLoader("fedrai.constitution"), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _cell, "number": _number, "share": _share}
    return environment.get_template("card.md").render(
        report=report,
        figures=report["alignment"],
        columns=columns,
        measured=measured,
        note=note,
        items=ITEMS,
        warning=trained_line(report.get("trained_suites") or ()),
        version=__version__,
    )


def trained_line(suites: Sequence[str]) -> str:
    """A warning that names the suites whose requests were trained on; empty if there are none.

    Args:
        suites: names of declared suites.
    """
    if not suites:
        return ""
    return (
        f"**Requests of {', '.join(map(_cell, suites))} were trained on**: figures of"
        f" {'this suite' if len(suites) == 1 else 'these suites'} for this model measure nothing"
        " new.\n\n"
    )


def _share(shares: Mapping[str, Any] | None, side: str) -> str:
    value = (shares or {}).get(side)
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _number(value: Any) -> str:
    """A count; of counts by name, their sum."""
    return f"{sum(value.values()) if isinstance(value, Mapping) else value:,}"


def _cell(text: str) -> str:
    """A text on one line, without bars, for a cell of a table."""
    return " ".join(text.replace("|", "/").split())
