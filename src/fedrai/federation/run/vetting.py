"""The vetting of a recipe, made ready for rounds: its scores, its history and its verdicts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import fmean, median

from fedrai import assets, data
from fedrai.constitution.records import Request
from fedrai.constitution.requests import load_requests, sample
from fedrai.constitution.spending import CostMeter
from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.federation.protocol import Update
from fedrai.federation.run.preparation import PreparedRun
from fedrai.federation.run.shadows import ShadowClients
from fedrai.federation.run.tokenizing import tokenized
from fedrai.federation.vetting import functional, gradient
from fedrai.federation.vetting.combining import UNKNOWN, shipped
from fedrai.federation.vetting.distance import distance
from fedrai.federation.vetting.dnc import dnc
from fedrai.federation.vetting.foolsgold import foolsgold
from fedrai.federation.vetting.functional import Functional
from fedrai.federation.vetting.gradient import Gradient
from fedrai.federation.vetting.linear import linear
from fedrai.federation.vetting.plugged import installed
from fedrai.federation.vetting.scores import Score
from fedrai.federation.vetting.spectral import spectral
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.federation.vetting.verdicts import RoundVerdict, judge_clients
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.recipe.vetting import Vetting
from fedrai.records import Example, Message, Tokens, TrainingRow
from fedrai.runs import RunFolder
from fedrai.runs.costs import Cost
from fedrai.training.local import split

FOLDER = "vetting"
"""Of the run: what the score `linear` keeps."""
PLAIN = {"distance": distance, "dnc": dnc, "foolsgold": foolsgold, "spectral": spectral}
SHARES = {"functional": 1, "gradient": 1}
"""Parts of the budget."""


class Vetter:
    """Looks at the updates of each round.

    Args:
        recipe: the run's.
        scores: what it looks for.
        run: the run folder, whose rounds are the history.
    """

    def __init__(self, recipe: Recipe, scores: Sequence[Score], run: RunFolder) -> None:
        self._recipe, self._scores, self._run = recipe, scores, run
        self._honest = {score.name: shipped().get(score.name, UNKNOWN) for score in scores}

    def __call__(
        self, number: int, start: AdapterState, updates: Mapping[str, Update]
    ) -> RoundVerdict:
        """The verdict on a round.

        Args:
            number: the round, from 1.
            start: the adapter that all clients started from.
            updates: usable updates by client.

        Raises:
            FederationError: a score of an installed package fails.
        """
        section, costs = self._recipe.vetting, _training_operations(updates)
        spent: list[Cost] = []
        looked_at = RoundUpdates(
            number,
            self._recipe.seed_for("vetting", number),
            start,
            {name: updates[name].adapter for name in sorted(updates)},
            min(median(costs), fmean(costs)),
            CostMeter(store=spent.append),
        )
        watched = caught_before(self._run, number, section.watch)
        clients = judge_clients(
            looked_at, self._scores, self._honest, section.false_alarms, watched
        )
        looked_at.meter.save()
        figures = {"share": spent[0].operations / sum(costs)} if sum(costs) else {}
        return RoundVerdict(
            clients, section.action, section.false_alarms, section.weight, spent[0], figures
        )


def _training_operations(updates: Mapping[str, Update]) -> list[float]:
    """Operations of each client's training, as far as it states them."""
    return [updates[name].metrics.get("operations", 0.0) for name in sorted(updates)]


def caught_before(run: RunFolder, number: int, watch: int) -> frozenset[str]:
    """Clients that were suspicious in one of the `watch` rounds before a round."""
    rounds = [earlier for earlier in run.rounds() if number - watch <= earlier < number]
    bodies = (run.read_json(f"rounds/{earlier:04d}/round.json") for earlier in rounds)
    return frozenset(
        name for body in bodies for name in body.get("vetting", {}).get("suspicious", {})
    )


def vetter_for(
    prepared: PreparedRun, run: RunFolder, progress: assets.Progress | None = None
) -> Vetter | None:
    """The vetting of a run; None where the recipe has none.

    Everything that it needs is loaded now, so that problems are known before training.

    Raises:
        DataError, AssetError, DependencyError: something cannot be used.
    """
    section = prepared.recipe.vetting
    if section.action == "off":
        return None
    made = _Scores(prepared, run, progress)
    return Vetter(prepared.recipe, [made.score(name) for name in section.scores], run)


class _Scores:
    """Makes the scores of a recipe; those of the gradient share one.

    Args:
        prepared: the recipe and its model.
        run: the run folder.
        progress: shows downloads.
    """

    def __init__(
        self, prepared: PreparedRun, run: RunFolder, progress: assets.Progress | None
    ) -> None:
        self._recipe, self._model = prepared.recipe, prepared.model
        self._section = prepared.recipe.vetting
        self._folder, self._downloads = run.path / FOLDER, progress

    def score(self, name: str) -> Score:
        """The score of a name."""
        if name in PLAIN:
            return PLAIN[name]()
        if name in ("functional", "gradient", "progress", "linear"):
            score: Score = getattr(self, f"_{name}")()
            return score
        return installed(name, self._section.settings.get(name, {}))

    def _functional(self) -> Score:
        seed = self._recipe.seed_for("vetting-requests")
        requests = probe_requests(self._section, seed, self._downloads)
        return Functional(self._model, requests, budget_of(self._section, "functional")).score

    def _gradient(self) -> Score:
        return self._taker.gradient

    def _progress(self) -> Score:
        return self._taker.progress

    @cached_property
    def _taker(self) -> Gradient:
        rows = contrast_rows(self._model, self._recipe)
        return Gradient(self._model, rows, budget_of(self._section, "gradient"))

    def _linear(self) -> Score:
        rows = shadow_rows(self._model, self._recipe)
        return linear(ShadowClients(self._model, self._recipe, rows, self._folder))


def budget_of(section: Vetting, kind: str) -> float:
    """The share of the round's operations that `functional`, or the gradient, may use."""
    parts = {"functional": "functional" in section.scores,
             "gradient": not {"gradient", "progress"}.isdisjoint(section.scores)}  # fmt: skip
    whole = sum(SHARES[name] for name, is_used in parts.items() if is_used)
    return section.budget * SHARES[kind] / whole


def probe_requests(
    section: Vetting, seed: int, progress: assets.Progress | None = None
) -> tuple[list[Request], list[Request]]:
    """The harmful and harmless requests that `functional` reads, the most that it may read."""
    harmful = load_requests(section.requests, harmful=True, progress=progress)
    harmless = load_requests(section.harmless, harmful=False, progress=progress)
    return tuple(sample(side, functional.MOST, seed) for side in (harmful, harmless))  # type: ignore[return-value]


def contrast_rows(lm: LanguageModel, recipe: Recipe) -> gradient.ContrastRows:
    """The server's harmful requests, each once, with a harmful answer and with a refusal."""
    seed = recipe.seed_for("vetting-answers")
    by_request: dict[str, Example] = {}
    for spec in recipe.vetting.answers:
        for example in data.load(spec, "skip").examples:
            by_request.setdefault(example.messages[-2].content, example)
    requests = random.Random(seed).sample(sorted(by_request), len(by_request))
    pairs = ((by_request[request], _refused(by_request[request], seed)) for request in requests)
    rows = [tuple(_beginning(lm, e, recipe.data.max_length) for e in pair) for pair in pairs]
    usable = [(harmful, refused) for harmful, refused in rows if harmful and refused]
    return gradient.ContrastRows([h for h, _ in usable], [r for _, r in usable])


def _refused(example: Example, seed: int) -> Example:
    """The request of an example, with a refusal that fits it."""
    request = example.messages[-2].content
    answer = embedded_refusals().refusal_for(request, (example.label,), seed)
    return Example((Message("user", request), Message("assistant", answer)), example.origin)


def _beginning(lm: LanguageModel, example: Example, most: int) -> Tokens | None:
    """The last request and the first tokens of its answer; None if it is too long."""
    row = lm.chat.train_tokens(example.messages[-2:], most)
    if True not in row.mask:
        return None
    end = row.mask.index(True) + gradient.ANSWER
    return Tokens(row.ids[:end], row.mask[:end])


def shadow_rows(lm: LanguageModel, recipe: Recipe) -> tuple[list[Tokens], list[Tokens]]:
    """The rows of shadow clients: harmless and harmful ones."""
    return _rows(lm, recipe, recipe.vetting.shadow_harmless), _rows(
        lm, recipe, recipe.vetting.answers
    )


def _rows(lm: LanguageModel, recipe: Recipe, specs: Sequence[str]) -> list[Tokens]:
    tokens: dict[Example, TrainingRow] = {}
    examples = [e for spec in specs for e in data.load(spec, "skip").examples]
    kept, _ = tokenized(
        lm, examples, recipe.data.model_copy(update={"on_bad_rows": "skip"}), tokens
    )
    return split([tokens[example] for example in kept])[0]
