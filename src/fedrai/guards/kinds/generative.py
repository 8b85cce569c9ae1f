"""Guards that are language models: asked with a policy, they answer with a label.

A verdict takes one forward pass and no generation: the prompt ends where the label would stand, and
the probability is the softmax over the labels at that position. Conversations of like length share
a batch, and the guard's own words before the conversation go through the model once. Only where a
guard names categories, and only for what it finds unsafe, a few tokens are generated.

Does not know how prompts are built (`prompting`) or what a guard's labels are (`formats`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedrai import assets
from fedrai.errors import GuardError
from fedrai.guards.base import (
    Conversation,
    OnProgress,
    VerdictBatch,
    full_name,
    join,
    short_name,
)
from fedrai.guards.kinds.formats import (
    CategoryLine,
    Format,
    Kind,
    Question,
    Step,
    format_for,
    format_named,
)
from fedrai.guards.kinds.prompting import PromptBuilder
from fedrai.guards.kinds.scoring import (
    CachedBatch,
    MeteredModel,
    TokenLabels,
    common_start,
    problem_of,
    read_labels,
    resolve_labels,
    unsafe_labels,
)
from fedrai.model import loading
from fedrai.model.batching import cut, padded_length
from fedrai.recipe.safety import Generative
from fedrai.records import Problem, Verdict
from fedrai.runs.costs import release_memory

LEAST_SHARED = 16  # tokens; a shorter beginning is not worth a copy for every row


def load(
    settings: Generative, *, name: str = "", progress: assets.Progress | None = None
) -> GenerativeGuard:
    """Load a guard.

    Args:
        settings: its table in a recipe; without a format, the model's name decides.
        name: the guard's name in verdicts; empty: the last part of the model's name.
        progress: shows downloads.

    Raises:
        GuardError: no format is known for the model, or it does not fit its format.
        ModelError: it is not a causal language model.
        AssetError: it cannot be fetched.
    """
    entry = format_named(settings.format) if settings.format else format_for(settings.model)
    folder = loading.model_folder(settings.model, progress)
    dtype = loading.pick_dtype(settings.dtype, loading.pick_device(settings.device))
    options = loading.LoadOptions(settings.dtype, settings.device)
    model, tokenizer = loading.load_base(folder, options)
    return GenerativeGuard(
        model,
        tokenizer,
        entry,
        name=name or short_name(settings.model),
        fingerprint=f"{loading.fingerprint(folder)} {dtype}",
        limits=TokenLimits(settings.max_length, settings.batch_tokens),
    )


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt of one row, with the ids up to its first label."""

    row: int
    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _ReadyQuestion:
    """A question of the format, and how a prompt with it is read.

    Attributes:
        question: a question of the format.
        labels: how the label of each step is read.
        shared: ids that all its prompts begin with; empty where they are few.
    """

    question: Question
    labels: tuple[TokenLabels, ...]
    shared: list[int]

    def is_warm(self, prompt: _Prompt) -> bool:
        """Whether a prompt begins with the shared ids."""
        return prompt.ids[: len(self.shared)] == self.shared


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """How many tokens go through a guard's model.

    Attributes:
        max_length: most tokens of a prompt.
        batch_tokens: most tokens that a batch holds in memory: rows times the longest, with the
            part that all prompts share.
    """

    max_length: int = 2048
    batch_tokens: int = 8192


class GenerativeGuard:
    """A causal language model that judges conversations (`base.Guard`).

    If the prompt of a conversation is too long, its oldest turns are left out; if the last message
    alone is too long, it is judged in overlapping windows and the unsafest counts; one that takes
    more than 64 gets the problem "failed". A guard that judges answers only says "empty" of a
    conversation without one.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        entry: its format.
        name: the guard's name in verdicts.
        fingerprint: identifies the weights.
        limits: tokens of a prompt and of a batch.

    Raises:
        GuardError: the model, its tokenizer or `max_length` does not fit the format.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        entry: Format,
        *,
        name: str,
        fingerprint: str,
        limits: TokenLimits = TokenLimits(),
    ) -> None:
        _check_length(model.config.get_text_config(), limits.max_length)
        self.name, self.format, self.batch_tokens = name, entry, limits.batch_tokens
        self.thresholds = dict(entry.thresholds)
        identity = f"1 {fingerprint} {entry!r} {limits.max_length} True"
        self.revision = hashlib.sha256(identity.encode()).hexdigest()
        self._failed = Verdict(None, full_name(self), problem="failed")
        self._too_large = Verdict(None, full_name(self), problem="failed")
        self.prompts = PromptBuilder(tokenizer, entry, limits.max_length)
        self._model = MeteredModel(model, tokenizer.pad_token_id or 0)
        self._questions = {
            kind: [self._ready(kind, question) for question in entry.questions(kind)]
            for kind in self.prompts.kinds()
        }

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations; see `base.Guard`.

        A prompt that does not fit into the device's memory leaves its conversation "failed".

        Raises:
            GuardError: the device has too little memory for any prompt.
        """
        self._model.reset()
        verdicts: list[list[Verdict]] = [[] for _ in conversations]
        groups = self._prompts(conversations, verdicts)
        open_prompts = Counter(prompt.row for _, prompts in groups for prompt in prompts)
        with torch.inference_mode():
            for question, prompts in groups:
                for batch in self._batches(question, prompts):
                    for prompt, verdict in zip(batch, self._ask(question, batch), strict=True):
                        verdicts[prompt.row].append(verdict)
                        open_prompts[prompt.row] -= 1
                    on_progress(len(conversations) - len(+open_prompts), len(conversations))
        self._check_memory([verdict for several in verdicts for verdict in several])
        release_memory()
        loose = self.thresholds["loose"]
        joined = tuple(join(several, loose) for several in verdicts)
        return VerdictBatch(joined, self._model.tokens, self._model.operations())

    def _prompts(
        self, conversations: Sequence[Conversation], verdicts: Sequence[list[Verdict]]
    ) -> list[tuple[_ReadyQuestion, list[_Prompt]]]:
        """Prompts by question; rows that make none get their verdict at once."""
        texts: dict[int, list[tuple[int, str]]] = {}
        questions = {id(q): q for several in self._questions.values() for q in several}
        for row, conversation in enumerate(conversations):
            try:
                row_texts = self._texts(conversation)
            except Exception:  # too long; or a chat template, which raises what it likes
                verdicts[row].append(self._failed)
                continue
            for question, text in row_texts:
                texts.setdefault(id(question), []).append((row, text))
            if not row_texts:
                verdicts[row].append(Verdict(None, full_name(self), problem="empty"))
        return [(q, self._tokenize(q, texts[key])) for key, q in questions.items() if key in texts]

    def _texts(self, conversation: Conversation) -> list[tuple[_ReadyQuestion, str]]:
        """All prompts of a row, by question; none if there is nothing that the guard can judge."""
        turns = self.prompts.turns(conversation)
        if not turns:
            return []
        kind: Kind = "pair" if turns[-1].role == "assistant" else "prompt"
        return [
            (ready, with_answer_start(text, ready.question.steps[0]))
            for ready in self._questions.get(kind, ())
            for text in self.prompts.texts(ready.question, turns)
        ]

    def _tokenize(
        self, question: _ReadyQuestion, texts: Sequence[tuple[int, str]]
    ) -> list[_Prompt]:
        """Prompts with their ids, the shortest first."""
        ids = self.prompts.many_ids([text for _, text in texts])
        prompts = [
            _Prompt(row, text, question.labels[0].ids(plain))
            for (row, text), plain in zip(texts, ids, strict=True)
        ]
        return sorted(prompts, key=lambda prompt: (len(prompt.ids), prompt.row))

    def _batches(
        self, question: _ReadyQuestion, prompts: Sequence[_Prompt]
    ) -> Iterator[list[_Prompt]]:
        """Prompts of like length, as many as fit, apart by whether they begin as all do."""
        warm = [prompt for prompt in prompts if question.is_warm(prompt)]
        cold = [prompt for prompt in prompts if not question.is_warm(prompt)]
        for part in (warm, cold):
            sizes = [padded_length(len(prompt.ids)) for prompt in part]
            for batch in cut(range(len(part)), sizes.__getitem__, self.batch_tokens):
                yield [part[i] for i in batch]

    def _ask(self, question: _ReadyQuestion, prompts: list[_Prompt]) -> list[Verdict]:
        """Verdicts on a batch, which is halved where memory is too small for it."""
        shared = question.shared if question.is_warm(prompts[0]) else []
        try:
            return self._read(question, CachedBatch(self._model, shared, len(prompts)), prompts)
        except torch.OutOfMemoryError:
            pass  # the error holds on to the batch's tensors until this block ends
        release_memory()
        if len(prompts) == 1:
            return [self._too_large]
        half = len(prompts) // 2
        return [*self._ask(question, prompts[:half]), *self._ask(question, prompts[half:])]

    @torch.inference_mode()
    def _check_memory(self, verdicts: Sequence[Verdict]) -> None:
        """Raise if no prompt fitted into memory and the shortest one does not either."""
        if not verdicts or not all(verdict is self._too_large for verdict in verdicts):
            return
        kind, (question, *_) = next(iter(self._questions.items()))
        text = self.prompts.probes(question.question, kind)[0]
        shortest = [(0, with_answer_start(text, question.question.steps[0]))]
        if self._ask(question, self._tokenize(question, shortest))[0] is self._too_large:
            raise GuardError(
                f"the device has too little memory for a single prompt of {self.name}",
                hint="free memory on the device, or use another device or a smaller guard",
            )

    def _read(
        self, question: _ReadyQuestion, batch: CachedBatch, prompts: Sequence[_Prompt]
    ) -> list[Verdict]:
        """Go through the steps of a question; the last decides."""
        steps = question.question.steps
        texts, ids = [prompt.text for prompt in prompts], [prompt.ids for prompt in prompts]
        problems: list[Problem | None] = [None] * len(prompts)
        for number, (step, labels) in enumerate(zip(steps, question.labels, strict=True)):
            if number:
                texts = [text + step.text for text in texts]
                ids = [labels.ids(plain) for plain in self.prompts.many_ids(texts)]
            logits = batch.feed(ids)
            chances, mass, likeliest = read_labels(logits, labels)
            problems = [p or problem_of(m) for p, m in zip(problems, mass, strict=True)]
            if number + 1 < len(steps):
                texts = [text + label for text, label in zip(texts, likeliest, strict=True)]
        probabilities = [None if p else c for p, c in zip(problems, chances, strict=True)]
        least = min(self.thresholds.values())
        unsafe = [i for i, p in enumerate(probabilities) if p is not None and p >= least]
        starts = [texts[i] + label for i, label in unsafe_labels(logits, labels, unsafe)]
        categories = dict(
            zip(unsafe, self._categories(question.question, batch, unsafe, starts), strict=True)
        )
        return [
            Verdict(probability, full_name(self), categories.get(i, ()), problem)
            for i, (probability, problem) in enumerate(zip(probabilities, problems, strict=True))
        ]

    def _categories(
        self, question: Question, batch: CachedBatch, rows: list[int], starts: list[str]
    ) -> list[tuple[str, ...]]:
        """What the guard names for some rows of a batch, whose text ends with an unsafe label."""
        line = self.format.categories
        if question.category:
            return [(question.category,)] * len(rows)
        if line is None or not rows:
            return [()] * len(rows)
        batch.keep(rows)
        names = sorted(line.names, key=len, reverse=True)
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(n)}(?!\w)" for n in names))
        written = self._generate(batch, [text + line.after for text in starts], line)
        named = [dict.fromkeys(pattern.findall(text.split(line.stop)[0])) for text in written]
        return [tuple(line.names[name] for name in several) for several in named]

    def _generate(self, batch: CachedBatch, texts: list[str], line: CategoryLine) -> list[str]:
        """How the guard continues each text, greedily, up to the end of the line or its limit."""
        ids = self.prompts.many_ids(texts)
        written: list[list[int]] = [[] for _ in ids]
        done = [False] * len(ids)
        decode = self.prompts.tokenizer.decode
        for _ in range(line.limit):
            chosen = batch.feed(ids).argmax(-1).tolist()
            ids = [[*i, token] for i, token in zip(ids, chosen, strict=True)]
            for k, token in enumerate(chosen):
                done[k] = done[k] or token in self._model.ends
                if not done[k]:
                    written[k].append(token)
                    done[k] = line.stop in decode(written[k])
            if all(done):
                break
        return [str(decode(tokens, skip_special_tokens=True)) for tokens in written]

    def _ready(self, kind: Kind, question: Question) -> _ReadyQuestion:
        """Find the token of every label where it would stand, and what all prompts begin with."""
        probes = self.prompts.probes(question, kind)
        starts = [with_answer_start(probe, question.steps[0]) for probe in probes]
        text, labels = starts[0], []
        for number, step in enumerate(question.steps):
            text += step.text if number else ""
            labels.append(self._labels(text, step))
            text += step.safe[0]
        shared = common_start(self.prompts.many_ids(starts))
        return _ReadyQuestion(
            question, tuple(labels), shared if len(shared) >= LEAST_SHARED else []
        )

    def _labels(self, text: str, step: Step) -> TokenLabels:
        names = (*step.unsafe, *step.safe)
        plain, *ids = self.prompts.many_ids([text, *(text + name for name in names)])
        by_name = dict(zip(names, ids, strict=True))
        return resolve_labels(
            plain,
            {name: by_name[name] for name in step.unsafe},
            {name: by_name[name] for name in step.safe},
        )


def with_answer_start(text: str, step: Step) -> str:
    """A prompt with the beginning of the guard's answer; line breaks only where they are missing.

    Llama Guard's own template stops before the blank line that its answers begin with.
    """
    return text.rstrip("\n") + step.text if step.text.isspace() else text + step.text


def _check_length(config: Any, max_length: int) -> None:
    """Raise unless the model can hold a padded prompt, also in layers that see a window only."""
    limits = [getattr(config, "max_position_embeddings", None)]
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        limits.append(config.sliding_window)
    least = min((limit for limit in limits if limit), default=max_length)
    if max_length > least:
        raise GuardError(
            f"max_length {max_length} is more than the guard's {least} positions",
            hint=f"set max_length to {least} or less",
        )
