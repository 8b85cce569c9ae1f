"""A node of a deployment: its own rows and policy around the client's handlers.

The first train message of an offer is checked against the node's policy; then the base model, the
rows and the guard are loaded, once. They stay in memory as long as the process lives and the offer
is the same, so in a resident process (`fedrai node`) only the first round pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedrai import recipe
from fedrai.deployment.node_log import NodeLog
from fedrai.deployment.node_privacy import protection
from fedrai.deployment.node_site import load
from fedrai.federation import client, protocol
from fedrai.federation.client import respond
from fedrai.federation.metrics import DATA_TOKENS, FILTER, PAIRS, WEIGHT
from fedrai.federation.privacy import accounting
from fedrai.federation.run import local, pair_tuning, preparation
from fedrai.federation.run.proof import prover
from fedrai.recipe.sections import Node
from fedrai.runs.costs import release_memory

GROUPS = {
    "loss-": "losses",
    "preference-": "losses",
    "reward-": "losses",
    PAIRS: "losses",
    FILTER: "filter-counts",
    DATA_TOKENS: "label-tokens",
}
"""What a policy calls metrics whose names begin so."""


class NodeApp:
    """The ClientApp of a node, by its file; loads when it is first asked to train.

    Args:
        file: the node's `node.toml`.
        write: prints lines for the operator: counts and places in the code, never a row.
        key: file of the private key with which the node proves its name; None: it has none.

    Raises:
        RecipeError: `file` cannot be used.
        FederationError: `key` cannot be used.
        DependencyError: the policy limits epsilon, and dp-accounting is missing.
    """

    def __init__(
        self,
        file: Path,
        write: Callable[[str], None] = lambda _line: None,
        key: Path | None = None,
    ) -> None:
        self.node = recipe.load_node(file)
        if self.node.policy.max_epsilon:
            accounting.load()
        self._folder = file.resolve().parent
        self._log = NodeLog(self._folder / f"{self.node.name}.log", write)
        self.note = self._log.note
        self._ready: tuple[str, ClientApp] | None = None  # the offer, and its handlers
        self._prove = prover(key) if key is not None else None
        self.app = self._build()

    def _build(self) -> ClientApp:
        app = ClientApp()

        @app.query()  # type: ignore[untyped-decorator]
        def _query(message: Message, context: Context) -> Message:
            return respond(message, lambda: self._name(message), self.note)

        @app.train()  # type: ignore[untyped-decorator]
        def _train(message: Message, context: Context) -> Message:
            return respond(message, lambda: self._train(message, context), self.note)

        return app

    def _name(self, message: Message) -> RecordDict:
        prove, node, name = self._prove, message.metadata.dst_node_id, self.node.name
        sign = None if prove is None else lambda nonce: prove(nonce, node, name)
        return protocol.pack_name(message.content, name, sign)

    def _train(self, message: Message, context: Context) -> RecordDict:
        number, digest = message.metadata.group_id[:8], protocol.checksum(message.content)
        self.note(f"round {number}: asked to train from the adapter with checksum {digest}")
        reply = self._handlers(protocol.unpack_offer(message.content))(message, context)
        return sendable(reply.content, self.node)

    def _handlers(self, document: str) -> ClientApp:
        """The handlers for an offer, with what was loaded for it if it is the last one again."""
        if self._ready is None or self._ready[0] != document:
            self._ready = None  # two large models at once may not fit
            release_memory()
            site = load(document, self.node, self._folder, self._log)
            settings_for = partial(preparation.sft_settings, site.settings)
            pairs_for = partial(pair_tuning.pair_settings, site.settings, None)
            folder, residuals = site.variates, site.residuals
            app = client.build_app(
                site,
                settings_for,
                site.settings.federation.rounds,
                variates=None if folder is None else lambda _client: folder,
                pairs_for=pairs_for,
                protect=protection(site, self._folder),
                uplink=local.uplink_of(site.settings, lambda _client: residuals or Path()),
            )
            self._ready = (document, app)
        return self._ready[1]


def sendable(content: RecordDict, node: Node) -> RecordDict:
    """A reply without the numbers that the node's policy does not list."""
    metrics = content.metric_records.get(protocol.METRICS)
    if metrics is None:
        return content
    listed = {WEIGHT, *node.policy.send}
    kept = {key: value for key, value in metrics.items() if _policy_name(key) in listed}
    return RecordDict({**content, protocol.METRICS: MetricRecord(kept)})


def _policy_name(metric: str) -> str:
    """What a policy calls a metric."""
    return next((name for start, name in GROUPS.items() if metric.startswith(start)), metric)
