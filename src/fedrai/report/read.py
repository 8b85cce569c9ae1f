"""Run folders -> records: what is missing is not recorded, what is damaged is an error.

Reads JSON and the resolved recipe; never an adapter, and of texts only answers to red-team requests
when they are asked for. Runs of earlier versions have less in their folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fedrai.constitution.outcome import spent
from fedrai.errors import RunError
from fedrai.rates import Rate
from fedrai.report.arms import arms_in
from fedrai.report.markup import shorten
from fedrai.report.records import (
    Alignment,
    Constitution,
    Evaluated,
    Probe,
    Removed,
    Round,
    Run,
    Screening,
)
from fedrai.report.transcripts import transcripts_of
from fedrai.report.values import (
    Json,
    as_count,
    as_counts,
    as_number,
    as_rate,
    as_score,
    as_total,
    json_of,
    part,
    recipe_of,
    word,
)
from fedrai.runs import RunFolder, find_runs
from fedrai.runs.costs import Cost, Ledger


def read_runs(paths: Sequence[Path], transcripts: int = 0) -> list[Run]:
    """The runs at some places: a run folder, or a folder of runs such as `fedrai compare` leaves.

    Args:
        paths: of folders.
        transcripts: how many answers to show of each red-team suite of each run.

    Raises:
        RunError: there is no run at a place, or a file of one is damaged.
    """
    folders = list(dict.fromkeys(run.path for path in paths for run in _runs_at(path)))
    return [
        read_run(RunFolder(folder), label, transcripts)
        for folder, label in zip(folders, _labels(folders), strict=True)
    ]


def _runs_at(path: Path) -> list[RunFolder]:
    found = [RunFolder(path)] if (path / "run.json").is_file() else find_runs(path)
    if not found:
        raise RunError(f"{path} holds no run (no run.json)", hint="`fedrai runs` lists runs")
    order = arms_in(path)  # the recipe's, where `fedrai compare` left it
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda r: (r.path.parent, places.get(r.path.name, len(order))))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as many of their parents as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return [_unique(_plain_name(name), place, folders) for place, name in enumerate(names)]


def _plain_name(name: str) -> str:
    """A name in words where it holds a seed: "both, seed 1", "share-0.3, both, seed 1"."""
    found = re.fullmatch(r"(?:(.+)/)?seed-(\d+)/([^/]+)", name)
    if found is None:
        return name
    above = f"{found[1]}, " if found[1] else ""
    return f"{above}{found[3]}, seed {found[2]}"


def _unique(name: str, place: int, folders: Sequence[Path]) -> str:
    short = shorten(name, 60)
    return short if len(folders) == 1 or len(name) <= 60 else f"{short} ({place + 1})"


def read_run(folder: RunFolder, label: str, transcripts: int = 0) -> Run:
    """One run.

    Args:
        folder: its folder.
        label: what it is called.
        transcripts: how many answers to show of each red-team suite.

    Raises:
        RunError: a file is damaged.
    """
    info = json_of(folder, "run.json")
    settings = recipe_of(folder)
    rounds = [json_of(folder, f"rounds/{n:04d}/round.json") for n in folder.rounds()]
    measured = {
        n: json_of(folder, f"evaluations/{n:04d}/metrics.json") for n in folder.evaluations()
    }
    screening = _screening(folder, info, settings, rounds)
    costs = _costs(folder, [*rounds, *measured.values()])
    last = max(measured, default=0)
    alone = part(settings, "federation").get("mode") == "local"
    models = max(1, len(part(info, "rows"))) if alone else 1
    shown, unreadable = transcripts_of(folder, last, transcripts)
    return Run(
        label=label,
        arm=folder.path.resolve().name,
        mode=str(part(settings, "federation").get("mode", "federated")),
        share=as_number(part(part(settings, "data"), "harm").get("share")),
        finished=folder.is_finished(),
        plain=_plain(info, settings, screening),
        model=word(info, "model"),
        start=word(info, "start"),
        seed=as_count(settings.get("seed")),
        rows=as_total(info.get("rows")),
        harmful_rows=as_total(info.get("harmful_rows")),
        bad_rows=as_count(info.get("bad_row_count")),
        clients=len(part(info, "rows")) or None,
        planned=as_count(part(settings, "federation").get("rounds")),
        evaluations=tuple(_evaluated(n, body, models if n else 1) for n, body in measured.items()),
        rounds=tuple(_round(n, body) for n, body in zip(folder.rounds(), rounds, strict=True)),
        screening=screening,
        constitution=_constitution(info, rounds, costs),
        costs=costs,
        provenance=_provenance(info, settings),
        transcripts=shown,
        transcript_round=last,
        unreadable=unreadable,
    )


# --- parts of a run -------------------------------------------------------------------------------


def _plain(info: Json, settings: Json, screening: Screening) -> bool:
    algorithm = part(settings, "aggregation").get("algorithm", "fedavg")
    mode = part(settings, "federation").get("mode", "federated")
    neither = screening.mode == "off" and not info.get("constitution")
    return bool(neither and algorithm == "fedavg" and mode == "federated")


def _evaluated(number: int, body: Json, models: int) -> Evaluated:
    found = {str(name): as_rate(value) for name, value in part(body, "rates").items()}
    rates = {name: _shared(rate, models) for name, rate in found.items() if rate is not None}
    scores = {str(name): as_score(value) for name, value in part(body, "scores").items()}
    return Evaluated(
        number,
        rates,
        as_number(body.get("held_out_loss")),
        {name: score for name, score in scores.items() if score is not None},
        {str(name): str(why) for name, why in part(body, "unavailable").items()},
    )


def _round(number: int, body: Json) -> Round:
    return Round(
        number,
        as_number(body.get("loss_first")),
        as_number(body.get("loss_last")),
        _norms(body),
        {str(name): str(why) for name, why in part(body, "set_aside").items()},
        _alignment(part(body, "constitution")) if "constitution" in body else None,
    )


def _shared(rate: Rate, models: int) -> Rate:
    """A rate over the answers of several models; earlier versions did not record its prompts."""
    if models == 1 or rate.prompts or not rate.scored:
        return rate
    return replace(rate, prompts=max(1, rate.scored // models))


def _norms(body: Json) -> dict[str, float]:
    """Norms of updates as the server measured them; in earlier versions' runs as clients said."""
    measured, clients = body.get("update_norms"), part(body, "clients")
    stated = {name: part(clients, name).get("update-norm") for name in clients}
    norms = measured if isinstance(measured, Mapping) else stated
    found = {str(name): as_number(norm) for name, norm in norms.items()}
    return {name: norm for name, norm in found.items() if norm is not None}


def _alignment(body: Json) -> Alignment:
    reused = body.get("reused")
    return Alignment(
        ran=bool(body.get("ran")),
        why=word(body, "why"),
        steps=as_count(body.get("steps")),
        stopped=word(body, "stopped"),
        requests=as_count(body.get("requests")),
        kept=as_count(body.get("kept")),
        reused=reused if isinstance(reused, bool) else None,
        outcomes=as_counts(body.get("outcomes")),
        before=_probe(part(body, "probe_before")),
        after=_probe(part(body, "probe_after")),
        trace=tuple(_looks(body.get("trace"))),
    )


def _probe(body: Json) -> Probe | None:
    """Shares and how many openings they are of, as counts."""
    sides = []
    for share, size in (("safe", "harmful"), ("useful", "harmless")):
        value, count = as_number(body.get(share)), as_count(body.get(size))
        if value is None or not count or not 0 <= value <= 1:
            return None
        sides.append(Rate(round(value * count), count))
    return Probe(*sides)


def _looks(trace: object) -> Iterator[tuple[int, float, float]]:
    for look in trace if isinstance(trace, list) else []:
        if isinstance(look, Mapping):
            step, safe, useful = (as_number(look.get(k)) for k in ("step", "safe", "useful"))
            if step is not None and safe is not None and useful is not None:
                yield int(step), safe, useful


def _constitution(
    info: Json, rounds: Sequence[Json], costs: Mapping[str, Cost]
) -> Constitution | None:
    known = part(info, "constitution")
    if not known:
        return None
    reports = [part(body, "constitution") for body in rounds]
    found = spent([report for report in reports if "ran" in report])
    took = costs.get("constitution", Cost()).operations
    return Constitution(word(known, "schedule"), word(known, "hash"), found.saving(took))


def _screening(folder: RunFolder, info: Json, settings: Json, rounds: Sequence[Json]) -> Screening:
    """What ledgers say; where only clients have them, what they sent with their last update."""
    whole = json_of(folder, "filter.json") if (folder.path / "filter.json").is_file() else {}
    total = part(whole, "total")
    suffix = ".filter.json"
    clients = {
        file.name.removesuffix(suffix): _removed(json_of(folder, f"clients/{file.name}"))
        for file in sorted((folder.path / "clients").glob(f"*{suffix}"))
    }
    reported = {} if clients else _reported(rounds)
    mode = info.get("filter", part(settings, "filter").get("mode", "off"))
    return Screening(
        mode=str(mode),
        guard=word(total, "guard") or None,
        threshold=as_number(total.get("threshold")),
        skipped=word(info, "filter_skipped"),
        total=_removed(total) if total else None,
        clients=clients or reported,
        reported=bool(reported),
        confusion=as_counts(total.get("confusion")),
    )


def _removed(body: Json) -> Removed:
    rows, unsafe, dropped, replaced = (
        as_count(body.get(key)) or 0 for key in ("rows", "unsafe", "dropped", "replaced")
    )
    unscored = sum(as_counts(body.get("unscored")).values())
    return Removed(rows, unsafe, dropped, replaced, unscored, as_counts(body.get("categories")))


def _reported(rounds: Sequence[Json]) -> dict[str, Removed]:
    found: dict[str, Removed] = {}
    for body in rounds:
        for name, metrics in part(body, "clients").items():
            if isinstance(metrics, Mapping) and "filter-rows" in metrics:
                found[str(name)] = _sent(metrics)
    return dict(sorted(found.items()))


def _sent(metrics: Json) -> Removed:
    def under(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}

    counts = under("filter-")
    parts = {"unscored": under("filter-unscored-"), "categories": under("filter-category-")}
    return _removed({**counts, **parts})


def _costs(folder: RunFolder, bodies: Sequence[Json]) -> dict[str, Cost]:
    ledger = Ledger()
    for body in bodies:
        for phase, cost in part(body, "costs").items():
            ledger.add(str(phase), _cost(cost))
    if (folder.path / "filter.json").is_file():
        ledger.add("filter", _cost(json_of(folder, "filter.json").get("cost")))
    return ledger.phases


def _cost(body: object) -> Cost:
    values = body if isinstance(body, Mapping) else {}
    found = {field.name: as_number(values.get(field.name)) for field in fields(Cost)}
    known: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    return Cost(**known)


def _provenance(info: Json, settings: Json) -> dict[str, str]:
    sampled = part(settings, "federation").get("clients_per_round")
    described = {
        "recipe": info.get("name"),
        "recipe hash": info.get("recipe_hash"),
        "seed": settings.get("seed"),
        "begun": info.get("created"),
        "model": info.get("model"),
        "model fingerprint": info.get("model_fingerprint"),
        "starts from": "a fresh adapter" if info.get("start") == "" else info.get("start"),
        "data fingerprint": info.get("data_fingerprint"),
        "questions fingerprint": info.get("questions_fingerprint"),
        "constitution hash": part(info, "constitution").get("hash", "no constitution"),
        "aggregation": part(settings, "aggregation").get("algorithm"),
        "clients per round": sampled,
        "machine": info.get("machine"),
        "device": info.get("device"),
        "number format": info.get("dtype"),
        **{f"version of {name}": found for name, found in part(info, "versions").items()},
    }
    return {name: str(value) for name, value in described.items() if value not in (None, "")}
