"""A whole run in this process: recipe in, run folder out.

`prepare` reads and checks everything that can be wrong (model, data, suites) before a run folder
exists; `execute` builds the ClientApp, the Grid and the ServerApp's loop and goes to the end.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context

from fedrai import aggregation, assets, client, data, model, partition, server
from fedrai.errors import DataError, ModelError
from fedrai.evaluation import suites
from fedrai.evaluation.measure import Measured, Questions, measure
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import BadRow, Example, Step, Tokens
from fedrai.runs import RunFolder
from fedrai.runtimes.grid import LocalGrid
from fedrai.schema import Data, Recipe, Source
from fedrai.train import label_count, learning_rates

POOLED = "pooled"  # the one client of a centralised run
PACKAGES = ("fedrai", "torch", "transformers", "peft", "flwr", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Watch:
    """Who hears of progress while a run goes on; each may raise KeyboardInterrupt to stop it."""

    event: Callable[..., None] = lambda _kind, **_fields: None
    step: Callable[[str, Step], None] = lambda _client, _step: None
    answers: Callable[[str, int, int], None] = lambda _suite, _done, _of: None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs, checked.

    Attributes:
        recipe: the resolved recipe.
        model: the base model with a fresh adapter.
        rows: tokenized rows by client.
        harmful: how many of a client's rows come from a harmful source.
        bad_rows: rows that could not be used.
        questions: what evaluations ask.
    """

    recipe: Recipe
    model: LanguageModel
    rows: Mapping[str, Sequence[Tokens]]
    harmful: Mapping[str, int]
    bad_rows: Sequence[BadRow]
    questions: Questions

    def info(self) -> dict[str, Any]:
        """What `run.json` holds: hashes, versions and counts."""
        return {
            "name": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "model": self.model.name,
            "model_fingerprint": self.model.fingerprint,
            "data_fingerprint": _rows_fingerprint(self.rows),
            "questions_fingerprint": _questions_fingerprint(self.questions),
            "rows": {name: len(rows) for name, rows in self.rows.items()},
            "harmful_rows": dict(self.harmful),
            "bad_rows": [f"{row.origin}: {row.problem}" for row in self.bad_rows[:100]],
            "bad_row_count": len(self.bad_rows),
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "device": str(self.model.device),
            "dtype": str(self.model.output_weight.dtype).removeprefix("torch."),
        }


def prepare(
    recipe: Recipe,
    progress: assets.Progress | None = None,
    loaded: LanguageModel | None = None,
) -> Prepared:
    """Load and check everything, without writing a run.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        loaded: a model that was loaded for the same `[model]`, `[adapter]` and `[training]`.

    Raises:
        AssetError, ModelError, DataError, EvaluationError: something cannot be used.
    """
    recipe_files_exist(recipe)
    lm = loaded or load_model(recipe, progress)
    tokens: dict[Example, Tokens] = {}
    shards, bad = shards_for(recipe, lambda part: _tokenized(lm, part, recipe.data, tokens))
    rows = {name: [tokens[example] for example in part] for name, part in shards.items()}
    harmful = {name: sum(e.harmful for e in part) for name, part in shards.items()}
    return Prepared(recipe, lm, rows, harmful, bad, questions_for(recipe, lm))


def recipe_files_exist(recipe: Recipe) -> None:
    """Look for local data files before anything big is fetched or loaded.

    Raises:
        AssetError, DataError: one is missing.
    """
    if recipe.data.partition.scheme == "files":
        _matching_files(recipe.data)
        return
    for source in (*recipe.data.sources, recipe.evaluation.ordinary_source):
        if data.is_local(source.path):
            assets.fetch(source.path)


def load_model(recipe: Recipe, progress: assets.Progress | None = None) -> LanguageModel:
    """The recipe's base model with a fresh adapter."""
    return model.load(
        recipe.model.base,
        rank=recipe.adapter.rank,
        alpha=recipe.adapter.alpha,
        dropout=recipe.adapter.dropout,
        target_modules=recipe.adapter.target_modules,
        dtype=recipe.model.dtype,
        device=recipe.model.device,
        quantization=recipe.model.quantization,
        attention=recipe.model.attention,
        max_length=recipe.data.max_length,
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        compile_layers=recipe.training.compile,
        progress=progress,
    )


Usable = Callable[[Sequence[Example]], tuple[list[Example], list[BadRow]]]


def shards_for(
    recipe: Recipe, usable: Usable = lambda examples: (list(examples), [])
) -> tuple[partition.Shards, list[BadRow]]:
    """Examples by client as the recipe divides them, and the rows that could not be used.

    Args:
        recipe: the recipe.
        usable: tells which examples of a source can be used, before they are divided.
    """
    if recipe.data.partition.scheme == "files":
        shards, bad = _one_file_a_client(recipe.data, usable)
    else:
        shards, bad = _divided(recipe, usable)
    if recipe.federation.mode == "centralised":
        shards = {POOLED: [row for name in sorted(shards) for row in shards[name]]}
    return shards, bad


def _matching_files(settings: Data) -> list[Path]:
    pattern = Path(settings.partition.files).expanduser()
    files = sorted(Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor))))
    if not files:
        raise DataError(f"no file matches data.partition.files = {settings.partition.files!r}")
    return files


def _one_file_a_client(settings: Data, usable: Usable) -> tuple[partition.Shards, list[BadRow]]:
    shards: partition.Shards = {}
    bad: list[BadRow] = []
    for file in _matching_files(settings):
        if file.stem in shards:
            raise DataError(f"two files give a client the name {file.stem!r}")
        loaded = data.load(str(file), bad_rows=settings.on_bad_rows)
        shards[file.stem], unusable = usable(loaded.examples)
        bad += [*loaded.bad_rows, *unusable]
    return shards, bad


def _divided(recipe: Recipe, usable: Usable) -> tuple[partition.Shards, list[BadRow]]:
    settings, names = recipe.data, partition.client_names(recipe.federation.clients)
    pools: dict[bool, list[tuple[Sequence[Example], float | None]]] = {False: [], True: []}
    bad: list[BadRow] = []
    for source in settings.sources:
        if source.harmful and settings.harm.share == 0:
            continue  # not needed, so not fetched either
        loaded = _load_source(source, settings.on_bad_rows)
        examples, unusable = usable(loaded.examples)
        pools[source.harmful].append((examples, source.share))
        bad += [*loaded.bad_rows, *unusable]
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
    )
    return placed, bad


def _load_source(source: Source, bad_rows: str) -> data.Loaded:
    return data.load(
        source.path,
        columns=source.columns,
        harmful=source.harmful,
        split=source.split,
        where=source.where,
        bad_rows=bad_rows,
    )


def _cut(rows: Sequence[Example], names: Sequence[str], recipe: Recipe) -> partition.Shards:
    settings, seed = recipe.data.partition, recipe.seed_for("partition")
    if settings.scheme == "dirichlet":
        return partition.dirichlet(rows, names, settings.alpha, seed)
    if settings.scheme == "power-law":
        return partition.power_law(rows, names, settings.exponent, seed)
    return partition.equal(rows, names)


def _tokenized(
    lm: LanguageModel,
    examples: Sequence[Example],
    settings: Data,
    tokens: dict[Example, Tokens],
) -> tuple[list[Example], list[BadRow]]:
    """The examples that fit the model (their tokens go into `tokens`), and the others."""
    bad: list[BadRow] = []
    for example in examples:
        row = _tokens(lm, example, settings.max_length)
        if isinstance(row, Tokens):
            tokens[example] = row
        else:
            bad.append(row)
    if bad and settings.on_bad_rows == "stop":
        raise DataError(
            f"{bad[0].origin}: {bad[0].problem} ({len(bad)} such rows)",
            hint='raise data.max_length, mend the rows, or set data.on_bad_rows = "skip"',
        )
    return [example for example in examples if example in tokens], bad


def _tokens(lm: LanguageModel, example: Example, max_length: int) -> Tokens | BadRow:
    try:
        row = lm.chat.train_tokens(example.messages, max_length)
    except ModelError as error:
        return BadRow(example.origin, error.message)
    if not label_count(row):
        return BadRow(example.origin, f"no answer within the first {max_length} tokens")
    return row


def questions_for(recipe: Recipe, lm: LanguageModel) -> Questions:
    """What the recipe's evaluations ask."""
    settings = recipe.evaluation
    held_out = _load_source(settings.ordinary_source, "skip").examples if settings.ordinary else ()
    tokens = [_tokens(lm, example, recipe.data.max_length) for example in held_out]
    seed = recipe.seed_for("suites")
    return Questions(
        harmful=suites.advbench(settings.advbench, seed) if settings.advbench else (),
        ordinary=suites.ordinary(held_out, settings.ordinary, seed) if settings.ordinary else (),
        held_out=[row for row in tokens if isinstance(row, Tokens)],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=recipe.seed_for("answers"),
    )


def execute(prepared: Prepared, run: RunFolder, watch: Watch) -> None:
    """Run the rounds that the run folder does not hold yet.

    Raises:
        FederationError: a round has too few usable updates.
        RunError: the run folder cannot be written.
        KeyboardInterrupt: raised by a watcher; the folder can be resumed.
    """
    recipe = prepared.recipe
    nodes = {name: number for number, name in enumerate(sorted(prepared.rows), 1001)}
    work = work_for(recipe)
    site = _LocalSite(prepared, run, watch)
    settings = recipe.aggregation.model_dump()

    def emit(kind: str, **fields: Any) -> None:
        if kind != "waiting":  # once a second: for the eye, not for the record
            run.event(kind, **fields)
        watch.event(kind, **fields)

    server.run_rounds(
        plan_for(recipe, len(nodes)),
        server.Tools(
            grid=LocalGrid(client.build_app(site, work), nodes),
            nodes=nodes,
            model=prepared.model,
            aggregator=aggregation.build(settings.pop("algorithm"), **settings),
            evaluate=lambda adapters: evaluate(
                prepared.model, prepared.questions, adapters, watch.answers
            ),
            run=run,
            emit=emit,
        ),
    )


def work_for(recipe: Recipe) -> client.Work:
    """The local work of a client, as the recipe sets it."""
    steps = _steps(recipe)
    training = recipe.training
    return client.Work(
        steps=steps,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        group_by_length=training.group_by_length,
        learning_rate=learning_rates(
            training.learning_rate,
            schedule=training.schedule,
            warmup_steps=training.warmup_steps,
            total_steps=recipe.federation.rounds * steps,
        ),
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
        proximal_mu=getattr(recipe.aggregation, "proximal_mu", 0.0),
    )


def plan_for(recipe: Recipe, clients: int) -> server.Plan:
    """The rounds, as the recipe sets them.

    Args:
        recipe: the recipe.
        clients: how many clients there are.
    """
    federation = recipe.federation
    federated = federation.mode == "federated"
    sampled = min(federation.clients_per_round or clients, clients) if federated else clients
    return server.Plan(
        seed=recipe.seed,
        rounds=federation.rounds,
        sampled=sampled,
        min_clients=min(federation.min_clients, sampled) if federated else 1,
        timeout=federation.round_timeout,
        steps_per_round=_steps(recipe),
        local=federation.mode == "local",
        evaluate_every=recipe.evaluation.every,
    )


def _steps(recipe: Recipe) -> int:
    """Steps a round: a centralised run takes as many as all sampled clients together."""
    pooled = recipe.federation.mode == "centralised"
    return recipe.training.local_steps * (recipe.federation.sampled if pooled else 1)


def evaluate(
    lm: LanguageModel,
    questions: Questions,
    adapters: Sequence[AdapterState],
    on_progress: Callable[[str, int, int], None],
) -> Measured:
    """Measure each adapter; with several (local mode) pool their answers and average the loss."""
    found = []
    for adapter in adapters:
        lm.load_adapter(adapter)
        found.append(measure(lm, questions, on_progress))
    if len(found) == 1:
        return found[0]
    pooled = {s: [a for m in found for a in m.answers[s]] for s in found[0].answers}
    losses = [m.held_out_loss for m in found if m.held_out_loss is not None]
    costs = found[0].costs
    for other in found[1:]:
        for phase, cost in other.costs.phases.items():
            costs.add(phase, cost)
    mean = sum(losses) / len(losses) if losses else None
    return Measured(pooled, mean, sum(m.held_out_tokens for m in found), costs)


class _LocalSite:
    """All clients of this process; they share the model and keep their rows apart."""

    def __init__(self, prepared: Prepared, run: RunFolder, watch: Watch) -> None:
        self.model = prepared.model
        self._prepared, self._run, self._watch = prepared, run, watch

    def name(self, context: Context) -> str:
        return str(context.node_config["client"])

    def rows(self, client: str) -> Sequence[Tokens]:
        return self._prepared.rows[client]

    def seed(self, round_: int, client: str) -> int:
        return self._prepared.recipe.seed_for("training", round_, client)

    def on_step(self, client: str, step: Step) -> None:
        self._watch.step(client, step)

    def log(self, client: str, line: str) -> None:
        self._run.client_log(client, line)


def _rows_fingerprint(rows: Mapping[str, Sequence[Tokens]]) -> str:
    """Tells on resuming whether the data are the same; stays in the run folder."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        digest.update(f"{name} {len(rows[name])}\n".encode())
        for row in rows[name]:
            digest.update(repr((row.ids, sum(row.mask))).encode())
    return digest.hexdigest()


def _questions_fingerprint(questions: Questions) -> str:
    held_out = _rows_fingerprint({"held out": questions.held_out})
    asked = [(item.number, item.prompt) for item in (*questions.harmful, *questions.ordinary)]
    return hashlib.sha256(repr((asked, held_out)).encode()).hexdigest()


def command_line() -> str:
    """The command that started this process, without folders."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
