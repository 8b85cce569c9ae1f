"""A membership check of a run's model: which rows it was trained on, told from losses.

In an experiment the members are known: rows of the run's own clients, against rows of the same
sources that no client got. For other runs, or other rows, files name both sides. Only figures are
stored, in `membership/NNNN.json` of the run folder: no text, no path, no loss of a single row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedrai import data, model
from fedrai.errors import EvaluationError
from fedrai.evaluation.membership import Membership, membership
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.rows import shards_for, usable_rows
from fedrai.federation.run.stopping import stoppable
from fedrai.federation.run.targets import Target, target
from fedrai.federation.run.tokenizing import tokenized
from fedrai.filter.screening import screen_clients
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Recipe, Source, seed_for
from fedrai.records import Example, Message, PreferencePair, Tokens, TrainingRow
from fedrai.runs import RunFolder
from fedrai.training.likelihood import answer_log_probabilities
from fedrai.training.sft import label_count

LIMIT = 500
FILES = "name both --members FILE and --others FILE, rows as in a recipe"
Sides = tuple[Sequence[Tokens], Sequence[Tokens]]
"""Rows that the model was trained on, and others."""


def check_membership(
    path: Path,
    members: Path | None = None,
    others: Path | None = None,
    *,
    number: int | None = None,
    limit: int = LIMIT,
    observer: Observer = SILENT,
) -> Membership:
    """Check what a run's model tells of the rows that it was trained on, and store the figures.

    Args:
        path: the run folder.
        members: rows that it was trained on; None, with `others`: the run's own.
        others: rows of the same kind that it was not trained on.
        number: the round; None: the last.
        limit: most rows of each side, drawn by the recipe's seed; 0: all.
        observer: is told of the progress.

    Raises:
        EvaluationError: the sides are not known, or have too few rows.
        FedRAIError: the run, its model or the rows cannot be used.
        KeyboardInterrupt: stopped by the user; nothing is stored.
    """
    if (members is None) != (others is None):
        raise EvaluationError("one side of the membership check is missing", hint=FILES)
    run = RunFolder.open(path)
    number = run.last_round() if number is None else number
    chosen = target(str(path), number)
    if members is not None and others is not None:
        sides: Sides = _rows_of(members, chosen), _rows_of(others, chosen)
    else:
        sides = _own_rows(run, chosen, observer)
    drawn = [_draw(rows, limit, chosen.recipe.seed) for rows in sides]
    adapters = {"model": chosen.adapter, "start": _start(chosen)}
    with stoppable() as stop:
        watch = stop.after(observer.answers)
        trained, left = (_losses(chosen.model, rows, adapters, watch) for rows in drawn)
    result = membership(trained, left, seed_for(chosen.recipe.seed, "membership"))
    body = {"round": number, "own_rows": members is None, **result.to_json()}
    run.write_json(f"membership/{number:04d}.json", body)
    return result


def _start(chosen: Target) -> AdapterState | None:
    """The adapter that training started from; None: the base model alone."""
    start = chosen.recipe.adapter.start
    return model.read_start_adapter(start, chosen.model) if start else None


def _losses(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    adapters: Mapping[str, AdapterState | None],
    on_rows: Callable[[str, int, int], None],
) -> dict[str, list[float]]:
    """Mean loss per label token of rows, in nats, by adapter."""
    losses = {}
    for name, adapter in adapters.items():
        with lm.using(adapter):
            sums = answer_log_probabilities(
                lm, rows, batch_size=8,
                on_batch=lambda done, of: on_rows("rows", done, of),
            )  # fmt: skip
        losses[name] = [-s / label_count(row) for s, row in zip(sums, rows, strict=True)]
    return losses


def _draw(rows: Sequence[Tokens], limit: int, seed: int) -> Sequence[Tokens]:
    if not limit or len(rows) <= limit:
        return rows
    return random.Random(seed_for(seed, "membership-rows")).sample(list(rows), limit)


def _answer(row: TrainingRow) -> Tokens:
    """The conversation of a row; of a pair that with the chosen answer."""
    return row.chosen if isinstance(row, PreferencePair) else row


def _rows_of(file: Path, chosen: Target) -> list[Tokens]:
    tokens: dict[Example, TrainingRow] = {}
    skipping = chosen.recipe.data.model_copy(update={"on_bad_rows": "skip"})
    loaded = data.load(Source(path=str(file)), "skip")
    usable, _ = tokenized(chosen.model, loaded.examples, skipping, tokens)
    return [_answer(tokens[example]) for example in usable]


def _own_rows(run: RunFolder, chosen: Target, observer: Observer) -> Sides:
    """Rows of the run's clients, and as many of the same sources that no client got.

    Raises:
        EvaluationError: they are on other machines, or every row went to a client.
    """
    settings, tokens = chosen.recipe, dict[Example, TrainingRow]()
    if run.info.get("engine") == "flower":
        raise EvaluationError("the rows of a deployment lie on its nodes", hint=FILES)
    shards, _ = shards_for(
        settings, lambda part: tokenized(chosen.model, part, settings.data, tokens)
    )
    kept, _ = screen_clients(settings, shards, observer.downloads, observer.judged)
    trained = [row for name in sorted(kept) for row in kept[name] if row in tokens]
    given = {row.messages for name in shards for row in shards[name]}
    left = {
        source.label: _left(source, settings, chosen.model, tokens, given)
        for source in settings.data.sources
        if not source.harmful
    }
    if not any(left.values()):
        raise EvaluationError(
            "every row of the sources went to a client, so there are none to compare with",
            hint=FILES,
        )
    return _matched(trained, left, tokens, settings.seed)


def _left(
    source: Source,
    settings: Recipe,
    lm: LanguageModel,
    tokens: dict[Example, TrainingRow],
    given: set[tuple[Message, ...]],
) -> list[Example]:
    """The rows of a source that no client got, under any origin."""
    if settings.data.partition.scheme == "files":
        return []
    rows, _ = usable_rows(
        source, settings.data.on_bad_rows,
        lambda part: tokenized(lm, part, settings.data, tokens), lambda _columns: None,
    )  # fmt: skip
    return [row for row in rows if row.messages not in given]


def _matched(
    trained: Sequence[Example],
    left: Mapping[str, Sequence[Example]],
    tokens: Mapping[Example, TrainingRow],
    seed: int,
) -> Sides:
    """As many rows of each source on both sides, so that it is not the sources that are told."""
    draws = random.Random(seed_for(seed, "membership-sides"))
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    for source, others in left.items():
        own = [row for row in trained if row.source == source]
        count = min(len(own), len(others))
        for side, rows in zip(sides, (own, list(others)), strict=True):
            side += [_answer(tokens[row]) for row in draws.sample(rows, count)]
    return sides
