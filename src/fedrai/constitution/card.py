"""The card of a model that `fedrai align` made: what it is, its figures, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrai import __version__

Table = Sequence[Sequence[str]]
WHEN = ("before", "after")


def card(report: Mapping[str, Any], columns: Sequence[str], measured: Table) -> str:
    """The card in Markdown; names, counts and figures only.

    Args:
        report: as `report.json` holds it.
        columns: names of the measured figures.
        measured: rows of a name and those figures; empty if nothing was measured.
    """
    rules, figures = report["constitution"], report["alignment"]
    version = f" {rules['version']}" if rules["version"] else ""
    return f"""# {_cell(report["name"])}

A LoRA adapter for `{report["base"]}`, aligned with the constitution {_cell(rules["name"])}{version}
(sha256 `{rules["hash"][:12]}`) by `fedrai align` of FedRAI {__version__}. The model answered
red-team requests, criticised and revised its answers, and learnt from the revisions that passed a
guard and a refusal judge. It started from {report["start"]}.

## Before and after

{_probe(figures)}
{_measured(columns, measured)}
## Training data

{_counts(figures)}
{trained_line(report.get("trained_suites") or ())}{_outcomes(figures.get("outcomes") or {})}
{figures["steps"]} steps; {figures.get("stopped") or "all of them"}. {_cost(report["cost"])}

`records.jsonl` holds every request with its answers, critiques and verdicts; `sft.jsonl` and
`preferences.jsonl` hold the same as training data. The texts are the model's own, and some first
answers are unsafe.

## Settings

`recipe.toml` holds all settings.
"""


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


def _probe(figures: Mapping[str, Any]) -> str:
    """The probe's two shares, before and after."""
    sides = {
        "safe": "harmful requests whose answer more likely begins with a refusal",
        "useful": "harmless requests whose answer more likely begins with help",
    }
    lines = [
        f"| {what} | {' | '.join(_share(figures, f'probe_{when}', key) for when in WHEN)} |"
        for key, what in sides.items()
    ]
    return "\n".join(["| probe | before | after |", "|---|---|---|", *lines, ""])


def _share(figures: Mapping[str, Any], when: str, key: str) -> str:
    value = (figures.get(when) or {}).get(key)
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _measured(columns: Sequence[str], rows: Table) -> str:
    if not rows:
        return "Not evaluated; `fedrai eval` measures this model.\n"
    head = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    note = "Rates in % with 95 % Wilson intervals; held-out loss in nats per token."
    return "\n".join([*head, *lines, "", note, ""])


def _counts(figures: Mapping[str, Any]) -> str:
    names = {
        "requests": "red-team requests",
        "overlap_removed": "requests excluded because an evaluation asks nearly the same",
        "kept": "revisions that passed",
        "rows": "rows trained on",
        "pairs": "preference pairs",
    }
    lines = [
        f"| {what} | {_number(figures[key])} |" for key, what in names.items() if key in figures
    ]
    return "\n".join(["| item | number |", "|---|---|", *lines, ""])


def _number(value: Any) -> str:
    """A count; of counts by name, their sum."""
    return f"{sum(value.values()) if isinstance(value, Mapping) else value:,}"


def _outcomes(outcomes: Mapping[str, int]) -> str:
    if not outcomes:
        return ""
    lines = [f"| {_cell(name)} | {count:,} |" for name, count in outcomes.items()]
    return "\n".join(["| outcome of a request | number |", "|---|---|", *lines, ""])


def _cost(cost: Mapping[str, float]) -> str:
    return (
        f"It took {cost['seconds'] / 60:.1f} min, {int(cost['tokens']):,} tokens and"
        f" {cost['operations'] / 1e12:.1f} Tflop."
    )


def _cell(text: str) -> str:
    """A text on one line, without bars, for a cell of a table."""
    return " ".join(text.replace("|", "/").split())
