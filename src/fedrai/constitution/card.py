"""The card of a model that `fedrai align` made: what it is, what came of it, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrai import __version__

Table = Sequence[Sequence[str]]


def card(report: Mapping[str, Any], columns: Sequence[str], measured: Table) -> str:
    """The card in Markdown; names, counts and figures only.

    Args:
        report: as `report.json` holds it.
        columns: names of the figures that were measured.
        measured: rows of a name and those figures; empty where nothing was measured.
    """
    rules, done = report["constitution"], report["alignment"]
    version = f" {rules['version']}" if rules["version"] else ""
    return f"""# {_cell(report["name"])}

A LoRA adapter for `{report["base"]}`, aligned with the constitution {_cell(rules["name"])}{version}
(sha256 `{rules["hash"][:12]}`) by `fedrai align` of FedRAI {__version__}: the model answered
red-team requests, criticised and revised its answers, and learnt from the revisions that a guard
and a refusal judge let pass. It started from {report["start"]}.

## Before and after

{_probe(done)}
{_measured(columns, measured)}
## Made of

{_counts(done)}
{trained_line(report.get("trained_suites") or ())}{_outcomes(done.get("outcomes") or {})}
{done["steps"]} steps; {done.get("stopped") or "all of them"}. {_cost(report["cost"])}

`records.jsonl` holds every request with its answers, critiques and verdicts; `sft.jsonl` and
`preferences.jsonl` hold the same as training data. The texts are the model's own: some first
answers in them are unsafe.

## Settings

`recipe.toml` holds all of them.
"""


def trained_line(suites: Sequence[str]) -> str:
    """A warning that names the suites whose requests were trained on; nothing where there are none.

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


def _probe(done: Mapping[str, Any]) -> str:
    """The probe's two shares, before and after."""
    sides = {
        "safe": "harmful requests for which declining is the likelier beginning",
        "useful": "harmless requests for which answering is the likelier beginning",
    }
    lines = [
        f"| {what} | {_share(done, 'probe_before', key)} | {_share(done, 'probe_after', key)} |"
        for key, what in sides.items()
    ]
    return "\n".join(["| probe | before | after |", "|---|---|---|", *lines, ""])


def _share(done: Mapping[str, Any], when: str, key: str) -> str:
    value = (done.get(when) or {}).get(key)
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _measured(columns: Sequence[str], rows: Table) -> str:
    if not rows:
        return "No evaluation was asked for; `fedrai eval` makes one.\n"
    head = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    note = "Rates in % with 95 % Wilson intervals; held-out loss in nats per token."
    return "\n".join([*head, *lines, "", note, ""])


def _counts(done: Mapping[str, Any]) -> str:
    names = {
        "requests": "red-team requests",
        "overlap_removed": "requests left out, since an evaluation asks them or nearly so",
        "kept": "revisions that passed",
        "rows": "rows trained on",
        "pairs": "preference pairs",
    }
    lines = [f"| {what} | {_number(done[key])} |" for key, what in names.items() if key in done]
    return "\n".join(["| what | number |", "|---|---|", *lines, ""])


def _number(value: Any) -> str:
    """A count; of counts by name, their sum."""
    return f"{sum(value.values()) if isinstance(value, Mapping) else value:,}"


def _outcomes(found: Mapping[str, int]) -> str:
    if not found:
        return ""
    lines = [f"| {_cell(name)} | {count:,} |" for name, count in found.items()]
    return "\n".join(["| what became of a request | number |", "|---|---|", *lines, ""])


def _cost(cost: Mapping[str, float]) -> str:
    return (
        f"It took {cost['seconds'] / 60:.1f} min, {int(cost['tokens']):,} tokens and"
        f" {cost['operations'] / 1e12:.1f} Tflop."
    )


def _cell(text: str) -> str:
    """A text that cannot break a table."""
    return " ".join(text.replace("|", "/").split())
