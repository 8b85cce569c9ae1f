"""The clients' rows and the evaluation's questions of a recipe.

Sources are read, rows that the model cannot use are set aside, and the rest is divided among the
clients with `partition.py`. Clients in one process get their rows here; a node reads its own.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedrai import assets, data
from fedrai.data import partition
from fedrai.errors import DataError
from fedrai.evaluation import suites
from fedrai.evaluation.records import Questions
from fedrai.federation.metrics import DATA_TOKENS
from fedrai.federation.run.judging import judges_for, select_suites
from fedrai.federation.run.tokenizing import hint_for, row_of
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Data, Recipe, Source
from fedrai.records import BadRow, Example, PreferencePair, Tokens, TrainingRow
from fedrai.training.local import labels_of

POOLED = "pooled"  # the one client of a centralised run


def check_files(recipe: Recipe) -> None:
    """Check that local data files exist, before anything large is fetched or loaded.

    Raises:
        AssetError, DataError: one is missing.
    """
    if recipe.data.partition.scheme == "files":
        _matching_files(recipe.data)
        return
    asked = recipe.evaluation
    for source in (*recipe.data.sources, asked.ordinary_source, asked.pair_source):
        if source is not None and data.is_local(source.path):
            assets.fetch(source.path, instead=data.DATASET_HINT)


Usable = Callable[[Sequence[Example]], tuple[list[Example], list[BadRow]]]
OnUnread = Callable[[Mapping[str, int]], None]


def shards_for(
    recipe: Recipe,
    usable: Usable = lambda examples: (list(examples), []),
    on_unread: OnUnread = lambda _columns: None,
) -> tuple[partition.Shards, list[BadRow]]:
    """Examples by client as the recipe divides them, and the unusable rows.

    Args:
        recipe: the recipe.
        usable: separates the usable examples of a source from its bad rows.
        on_unread: called with columns of further answers, which are not used, by source.
    """
    if recipe.data.partition.scheme == "files":
        shards, bad = _one_file_a_client(recipe.data, usable, on_unread)
    else:
        shards, bad = _divide(recipe, usable, on_unread)
    if recipe.federation.mode == "centralised":
        shards = {POOLED: [row for name in sorted(shards) for row in shards[name]]}
    return shards, bad


def _matching_files(settings: Data) -> list[Path]:
    pattern = Path(settings.partition.files).expanduser()
    files = sorted(Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor))))
    if not files:
        raise DataError(f"no file matches data.partition.files = {settings.partition.files!r}")
    return files


def _check_names(names: Sequence[str]) -> None:
    """Check that each client has its own files in a run folder, on any disk.

    Raises:
        DataError: two names differ only in case, or one is that of a hidden file.
    """
    names_by_key: dict[str, str] = {}
    for name in names:
        if name.startswith("."):
            raise DataError(
                f"a file gives a client the name {name!r}, which starts with a dot",
                hint="data.partition.files matches a hidden file; narrow the pattern",
            )
        if (other := names_by_key.get(name.casefold())) is not None:
            raise DataError(
                f"two files give a client the name {name!r}"
                + ("" if other == name else f" or {other!r}, which are the same on some disks")
            )
        names_by_key[name.casefold()] = name


def _one_file_a_client(
    settings: Data, usable: Usable, on_unread: OnUnread
) -> tuple[partition.Shards, list[BadRow]]:
    shards: partition.Shards = {}
    bad: list[BadRow] = []
    files = _matching_files(settings)
    _check_names([file.stem for file in files])
    for file in files:
        source = read_like(settings, str(file))
        shards[file.stem], unusable = usable_rows(source, settings.on_bad_rows, usable, on_unread)
        bad += unusable
    return shards, bad


def read_like(settings: Data, path: str) -> Source:
    """A file as a source that is read like the recipe's sources, whose options agree."""
    sources = [s for s in settings.sources if not s.harmful] or settings.sources
    first = sources[0] if sources else Source(path=path)
    name = first.name or "rows"  # one for all clients' files
    return first.model_copy(update={"path": path, "harmful": False, "name": name})


def count_by_source(
    rows: Mapping[str, Sequence[Example]], sources: Sequence[Source] = ()
) -> dict[str, dict[str, int]]:
    """Numbers of rows by client and source.

    Args:
        rows: examples by client.
        sources: those of the recipe, in whose order they are; other labels come last.
    """
    labels = [source.label for source in sources]
    return {client: _count(part, labels) for client, part in rows.items()}


def _count(rows: Sequence[Example], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(row.source for row in rows)
    ordered = dict.fromkeys([*labels, *sorted(counts)])
    return {label: counts[label] for label in ordered if counts[label]}


def usable_rows(
    source: Source, bad_rows: str, usable: Usable, on_unread: OnUnread
) -> tuple[list[Example], list[BadRow]]:
    """The usable rows of a dataset, and the others.

    Args:
        source: a source of the recipe.
        bad_rows: `stop` or `skip`.
        usable: separates usable examples from bad rows.
        on_unread: called with columns of further answers.

    Raises:
        AssetError, DataError: it cannot be read, or has no usable row.
    """
    loaded = data.load(source, bad_rows)
    on_unread(loaded.unread)
    examples, unusable = usable(loaded.examples)
    bad = [*loaded.bad_rows, *unusable]
    if not examples:
        raise DataError(
            f"{source.path} holds no usable row; {data.most_common_problem(bad)}",
            hint=hint_for(bad),
        )
    return examples, bad


def _divide(
    recipe: Recipe, usable: Usable, on_unread: OnUnread
) -> tuple[partition.Shards, list[BadRow]]:
    settings, names = recipe.data, partition.client_names(recipe.federation.clients)
    pools: dict[bool, list[tuple[Sequence[Example], float | None]]] = {False: [], True: []}
    bad: list[BadRow] = []
    for source in settings.sources:
        if source.harmful and settings.harm.share == 0:
            continue  # not needed, so not fetched either
        examples, unusable = usable_rows(source, settings.on_bad_rows, usable, on_unread)
        pools[source.harmful].append((examples, source.share))
        bad += unusable
    total = settings.rows_per_client * len(names)
    benign = partition.mix(pools[False], total, recipe.seed_for("mixture"))
    shards = _cut(benign, names, recipe)
    if settings.harm.share == 0:
        return shards, bad
    concentrated = settings.harm.placement == "concentrated"
    placed = partition.place_harm(
        shards,
        partition.mix(pools[True], 0, recipe.seed_for("harmful-mixture")),
        share=settings.harm.share,
        malicious=settings.harm.malicious_clients if concentrated else None,
        seed=recipe.seed_for("harm"),
        by_source=settings.partition.by_source,
    )
    return placed, bad


def _cut(rows: Sequence[Example], names: Sequence[str], recipe: Recipe) -> partition.Shards:
    settings, seed = recipe.data.partition, recipe.seed_for("partition")
    if settings.scheme == "dirichlet":
        return partition.dirichlet(rows, names, settings.alpha, seed)
    if settings.scheme == "power-law":
        return partition.power_law(
            rows, names, settings.exponent, seed, by_source=settings.by_source
        )
    return partition.equal(rows, names, by_source=settings.by_source)


def questions_for(
    recipe: Recipe,
    lm: LanguageModel,
    progress: assets.Progress | None = None,
    on_bad: Callable[[Sequence[BadRow]], None] = lambda _rows: None,
) -> Questions:
    """The questions and judges of a recipe's evaluations.

    Args:
        recipe: the recipe.
        lm: the model, for the tokens of held-out rows.
        progress: shows downloads.
        on_bad: called with held-out rows that cannot be used.

    Raises:
        EvaluationError, AssetError, DataError: a suite or file cannot be used.
        GuardError, ModelError: the judging guard cannot be used.
    """
    settings = recipe.evaluation
    ordinary = settings.ordinary_source
    loaded = data.load(ordinary, "skip") if settings.ordinary else data.Dataset((), ())
    held_out = loaded.examples
    tokens = [row_of(lm, example, recipe.data.max_length) for example in held_out]
    on_bad([*loaded.bad_rows, *(row for row in tokens if isinstance(row, BadRow))])
    pairs, unusable = _held_out_pairs(recipe, lm)
    on_bad(unusable)
    seed, selection = recipe.seed_for("suites"), select_suites(recipe, progress)
    return Questions(
        harmful=selection.harmful,
        ordinary=suites.ordinary(held_out, settings.ordinary, seed) if settings.ordinary else (),
        held_out=[row for row in tokens if isinstance(row, Tokens)],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=recipe.seed_for("answers"),
        rated_tokens=settings.rated_tokens,
        batch_tokens=settings.batch_tokens,
        suites=selection.suites,
        judges=judges_for(recipe, progress),
        clusters=selection.clusters,
        unavailable=selection.unavailable,
        pairs=pairs,
    )


def _held_out_pairs(recipe: Recipe, lm: LanguageModel) -> tuple[list[PreferencePair], list[BadRow]]:
    """A seeded sample of the held-out pairs, and those that cannot be used."""
    settings = recipe.evaluation
    if settings.pair_source is None:
        return [], []
    loaded = data.load(settings.pair_source, "skip")
    rows = [row_of(lm, example, recipe.data.max_length) for example in loaded.examples]
    pairs = [row for row in rows if isinstance(row, PreferencePair)]
    bad = [*loaded.bad_rows, *(row for row in rows if isinstance(row, BadRow))]
    draw = random.Random(recipe.seed_for("held-out-pairs"))
    chosen = draw.sample(range(len(pairs)), min(settings.pairs, len(pairs)))
    return [pairs[number] for number in sorted(chosen)], bad


def token_metrics(recipe: Recipe, rows: Sequence[TrainingRow]) -> dict[str, int]:
    """The number of label tokens of a client's rows, where the mean weighs by it; else empty."""
    needed = rows and "label-tokens" in recipe.needed_numbers
    return {DATA_TOKENS: sum(map(labels_of, rows))} if needed else {}


def rows_fingerprint(rows: Mapping[str, Sequence[TrainingRow]]) -> str:
    """A hash of the data, checked when a run is resumed; stays in the run folder."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        digest.update(f"{name} {len(rows[name])}\n".encode())
        for row in rows[name]:
            parts = [row] if isinstance(row, Tokens) else [row.chosen, row.rejected]
            for part in parts:
                digest.update(repr((part.ids, sum(part.mask))).encode())
    return digest.hexdigest()


def questions_fingerprint(questions: Questions) -> str:
    """A hash of all questions, checked when a run is resumed; stays in the run folder."""
    held_out = rows_fingerprint({"held out": questions.held_out})
    prompts = [(item.number, item.prompt) for item in (*questions.harmful, *questions.ordinary)]
    others = _other_questions(questions)
    if questions.pairs:
        others.append(rows_fingerprint({"held-out pairs": questions.pairs}))
    return hashlib.sha256(repr((prompts, held_out, *others)).encode()).hexdigest()


def _other_questions(questions: Questions) -> list[object]:
    """Further suites, item by item, and judges other than our rule and the legacy score.

    Empty where there are none, so that fingerprints of earlier versions stay valid.
    """
    judges, missing = questions.judges, sorted(questions.unavailable)
    named = (judges.rule, judges.legacy, judges.guard and (judges.guard.name,
             judges.guard.threshold), judges.rubric and judges.rubric.name,
             *(judge.full_name for judge in judges.installed))  # fmt: skip
    if not (questions.suites or missing) and named == (True, True, None, None):
        return []
    items = [(s.declaration.name, s.declaration.judge, *map(repr, s.items))
             for s in questions.suites]  # fmt: skip
    return [items, missing, named, questions.rated_tokens]
