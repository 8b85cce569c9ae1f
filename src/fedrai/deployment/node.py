"""A node of a deployment: its own rows and policy around the client's handlers.

The first train message of an offer is checked against the node's policy; then the base model, the
rows and the guard are loaded, once. What was loaded stays for as long as the process lives and the
offers are the same, so in a resident process (`fedrai node`) only the first round pays for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedrai import data, recipe
from fedrai.data.columns import unread_line
from fedrai.deployment.offer import (
    check_offer,
    check_threshold,
    needs_guard,
    read_offer,
    recipe_for,
)
from fedrai.errors import AssetError, DataError, ModelError
from fedrai.federation import client, protocol
from fedrai.federation.client import RefusedTaskError, describe, respond
from fedrai.federation.metrics import BAD_ROWS, FILTER, WEIGHT, filter_metrics
from fedrai.federation.protocol import Reason
from fedrai.federation.run import preparation
from fedrai.federation.run.proof import prover
from fedrai.federation.run.rows import tokenized, usable_rows
from fedrai.filter.screening import policy_of, screen_clients
from fedrai.model import LanguageModel
from fedrai.progress import ProgressLines
from fedrai.recipe.sections import Node, Recipe
from fedrai.records import BadRow, Example, Tokens, TrainingStep
from fedrai.runs.costs import release_memory

LOSSES = "loss-"  # before the names of metrics that tell of losses


@dataclass(frozen=True, slots=True)
class NodeSite:
    """What a node has ready for an offer; a `client.Site`.

    Attributes:
        node: the node's own file.
        settings: the offer as a recipe of this node alone.
        model: the base model.
        tokens: the rows that are trained on.
        counts: rows that were filtered or could not be used, as the server hears of them.
        note: keeps a line in the node's log.
        progress: shows the operator how training goes on.
    """

    node: Node
    settings: Recipe
    model: LanguageModel
    tokens: Sequence[Tokens]
    counts: Mapping[str, int]
    note: Callable[[str], None]
    progress: ProgressLines

    def name(self, context: Context) -> str:
        """The node's name, whatever Flower's context says."""
        return self.node.name

    def rows(self, client: str) -> Sequence[Tokens]:
        """The node's rows."""
        return self.tokens

    def row_counts(self, client: str) -> Mapping[str, int]:
        """The counts; `sendable` drops those that the policy does not let out."""
        return self.counts

    def seed(self, round_: int, client: str) -> int:
        """As in a run in one process."""
        return self.settings.seed_for("training", round_, client)

    def on_step(self, client: str, step: TrainingStep) -> None:
        """Tell the operator now and then."""
        self.progress.report("training", step.step, step.steps, unit="steps")

    def log(self, client: str, line: str) -> None:
        """Keep a line in the node's log."""
        self.note(line)


class NodeApp:
    """The ClientApp of a node, by its file; loads when it is first asked to train.

    Args:
        file: the node's `node.toml`.
        say: hears of lines for the operator: counts and places in the code, never a row.
        key: the file of the node's private key, with which it proves its name; None: it has none.

    Raises:
        RecipeError: `file` cannot be used.
        FederationError: `key` cannot be used.
    """

    def __init__(
        self,
        file: Path,
        say: Callable[[str], None] = lambda _line: None,
        key: Path | None = None,
    ) -> None:
        self.node = recipe.load_node(file)
        self._folder = file.resolve().parent
        self._log = self._folder / f"{self.node.name}.log"
        self._say = say
        self._progress = ProgressLines(self._tell)
        self._log_fails = False
        self._ready: tuple[str, NodeSite, ClientApp] | None = None
        self._prove = prover(key) if key is not None else None
        self.app = self._build()

    def note(self, line: str) -> None:
        """Keep a line in the node's own log, beside its file.

        A log that cannot be written (a full disk) ends nothing: that is said once, and lines are
        still said.
        """
        self._tell(line)
        self._progress.reset()
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self._log.open("a", encoding="utf-8") as opened:
                opened.write(f"{stamp} {line}\n")
            self._log_fails = False
        except OSError as error:
            if not self._log_fails:
                self._tell(f"{self._log} cannot be written: {error.strerror or 'input/output'}")
            self._log_fails = True

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # where lines go may be a file on the same disk, or a closed pipe
            self._say(line)

    def _build(self) -> ClientApp:
        app = ClientApp()

        @app.query()  # type: ignore[untyped-decorator]
        def _query(message: Message, context: Context) -> Message:
            return respond(message, lambda: self._named(message), self.note)

        @app.train()  # type: ignore[untyped-decorator]
        def _train(message: Message, context: Context) -> Message:
            return respond(message, lambda: self._trained(message, context), self.note)

        return app

    def _named(self, message: Message) -> RecordDict:
        prove, node, name = self._prove, message.metadata.dst_node_id, self.node.name
        signed = None if prove is None else lambda nonce: prove(nonce, node, name)
        return protocol.pack_name(message.content, name, signed)

    def _trained(self, message: Message, context: Context) -> RecordDict:
        self.note(f"round {message.metadata.group_id[:8]}: asked to train")
        reply = self._ready_for(protocol.unpack_offer(message.content))(message, context)
        return sendable(reply.content, self.node)

    def _ready_for(self, document: str) -> ClientApp:
        """The handlers for an offer; what is loaded for the last one stays if it is the same."""
        if self._ready is None or self._ready[0] != document:
            self._ready = None  # two big models at once may not fit
            release_memory()
            loaded = load(document, self.node, self._folder, self.note, self._progress)
            settings = preparation.sft_settings(loaded.settings)
            app = client.build_app(loaded, settings, loaded.settings.federation.rounds)
            self._ready = (document, loaded, app)
        return self._ready[2]


def sendable(content: RecordDict, node: Node) -> RecordDict:
    """A reply without what the node's policy keeps."""
    metrics = content.metric_records.get(protocol.METRICS)
    if metrics is None:
        return content
    sent = {WEIGHT, *node.policy.send}
    kept = {key: value for key, value in metrics.items() if _called(key) in sent}
    return RecordDict({**content, protocol.METRICS: MetricRecord(kept)})


def _called(metric: str) -> str:
    """What a policy calls a metric."""
    groups = {LOSSES: "losses", FILTER: "filter-counts"}
    return next((name for start, name in groups.items() if metric.startswith(start)), metric)


def load(
    document: str,
    node: Node,
    folder: Path,
    note: Callable[[str], None],
    progress: ProgressLines,
) -> NodeSite:
    """Check an offer and load what it asks for.

    Args:
        document: the offer.
        node: the node's own file.
        folder: where that lies.
        note: keeps a line in the node's log.
        progress: shows the operator how the filter and training go on.

    Raises:
        RefusedTaskError: the node does not do it, or cannot.
        GuardError, DataError: the filter or the rows cannot be used.
    """
    offer = read_offer(document)
    check_offer(offer, node)
    settings = recipe_for(offer, node, folder)
    lm = _model(settings, note)
    if lm.fingerprint != offer.model.fingerprint:
        raise RefusedTaskError(Reason.OTHER_MODEL)
    tokens: dict[Example, Tokens] = {}
    examples, bad = _examples(settings, lm, tokens, note)
    kept, filter_counts = _screened(examples, settings, node, note, progress)
    bad += tokenized(lm, [e for e in kept if e not in tokens], settings.data, tokens)[1]
    rows = [tokens[e] for e in kept if e in tokens]
    why = f"; {data.most_common_problem(bad)}" if bad else ""
    note(f"ready: {len(rows)} of {len(examples)} rows after the filter, {len(bad)} not usable{why}")
    counts = {**filter_metrics(filter_counts), BAD_ROWS: len(bad)}
    return NodeSite(node, settings, lm, rows, counts, note, progress)


def _model(settings: Recipe, note: Callable[[str], None]) -> LanguageModel:
    note("loading the base model")
    try:
        return preparation.load_model(settings)
    except (AssetError, ModelError) as error:
        note(describe(error))
        raise RefusedTaskError(Reason.MODEL_FAILED) from None


def _examples(
    settings: Recipe,
    lm: LanguageModel,
    tokens: dict[Example, Tokens],
    note: Callable[[str], None],
) -> tuple[list[Example], list[BadRow]]:
    """The node's rows that can be used, in the order of its sources, and the others."""
    examples: list[Example] = []
    bad: list[BadRow] = []
    for source in settings.data.sources:
        try:
            usable, unusable = usable_rows(source, settings.data.on_bad_rows,
                lambda part: tokenized(lm, part, settings.data, tokens),
                lambda columns: _note_unread(columns, note))  # fmt: skip
        except DataError as error:  # names rows by file and line alone
            note(f"{error.message}; {error.hint}" if error.hint else error.message)
            raise
        examples += usable
        bad += unusable
    return examples, bad


def _note_unread(columns: Mapping[str, int], note: Callable[[str], None]) -> None:
    """Say which columns hold answers that are not trained on."""
    if line := unread_line(columns):
        note(line)


def _screened(
    examples: Sequence[Example],
    settings: Recipe,
    node: Node,
    note: Callable[[str], None],
    progress: ProgressLines,
) -> tuple[Sequence[Example], Mapping[str, int]]:
    """The rows that the filter keeps, and its counts."""
    if settings.filter.mode == "off":
        return examples, {}
    if needs_guard(settings.filter, node.policy):
        _check_threshold(settings, node, note)
    try:
        kept, screening = screen_clients(
            settings,
            {node.name: list(examples)},
            on_client=lambda _name, done, of: progress.report("filter", done, of, unit="judged"),
        )
    except DataError:  # nothing is left; the refusals are those that come along
        raise RefusedTaskError(Reason.NO_ROWS) from None
    if screening.note:
        note(screening.note)
    return kept[node.name], screening.counts.get(node.name, {})


def _check_threshold(settings: Recipe, node: Node, note: Callable[[str], None]) -> None:
    """Hold the filter's threshold against the policy, by the guard's own ones."""
    from fedrai.guards.loading import load as load_guard

    asked = settings.filter
    try:
        guard = load_guard(asked.guard, tables=settings.guards, device=settings.model.device)
        number = policy_of(asked, guard).threshold
    except Exception as error:  # whatever a guard that was never tried here does
        note(describe(error))
        raise RefusedTaskError(Reason.GUARD) from None
    check_threshold(number, guard.thresholds, node.policy)
