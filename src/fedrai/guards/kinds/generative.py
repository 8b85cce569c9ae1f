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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedrai import assets
from fedrai.errors import GuardError
from fedrai.guards.base import Conversation, OnProgress, VerdictBatch, unsafest
from fedrai.guards.kinds.formats import Format, Kind, Question, Step, format_for, format_named
from fedrai.guards.kinds.prompting import PromptBuilder
from fedrai.guards.kinds.scoring import (
    CachedBatch,
    MeteredModel,
    TokenLabels,
    common_start,
    problem_of,
    read,
    resolve,
)
from fedrai.model import loading
from fedrai.model.batching import cut, padded_length
from fedrai.records import Problem, Verdict
from fedrai.runs.costs import release_memory

BLOCKS = 256  # of each file of weights that the revision looks at
LEAST_SHARED = 16  # tokens; a shorter beginning is not worth a copy for every row


def load(
    spec: str,
    *,
    format: str | None = None,  # noqa: A002
    dtype: str = "auto",
    device: str = "auto",
    max_length: int = 2048,
    batch_tokens: int = 8192,
    name: str | None = None,
    progress: assets.Progress | None = None,
) -> GenerativeGuard:
    """Load a guard.

    Args:
        spec: a model: folder, hub id or GGUF file.
        format: name of its format; None to tell it from the spec.
        dtype: "auto", "bfloat16" or "float32".
        device: "auto", "cpu", "cuda" or "cuda:N".
        max_length: most tokens of a prompt.
        batch_tokens: most tokens that a batch holds in memory.
        name: of the guard in verdicts; None for the last part of the spec.
        progress: told of downloads.

    Raises:
        GuardError: no format is known for it, or it does not fit its format.
        ModelError: it is not a causal language model.
        AssetError: it cannot be fetched.
    """
    entry = format_named(format) if format else format_for(spec)
    folder = loading.model_folder(spec, progress)
    number = loading.pick_dtype(dtype, loading.pick_device(device))
    model, tokenizer = loading.load_base(folder, loading.LoadOptions(dtype, device))
    last = spec.split("#")[0].split("@")[0].rstrip("/").split("/")[-1].lower()
    return GenerativeGuard(
        model,
        tokenizer,
        entry,
        name=name or last,
        fingerprint=f"{loading.fingerprint(folder)} {number}",
        max_length=max_length,
        batch_tokens=batch_tokens,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """One prompt of one row, with the ids of its first step."""

    row: int
    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the guard says to one prompt: the probability of unsafe, or why there is none."""

    probability: float | None
    categories: tuple[str, ...] = ()
    problem: Problem | None = None


TOO_LARGE = _Answer(None, problem="failed")
"""The answer to a prompt that does not fit into the device's memory, even by itself."""


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
        name: of the guard in verdicts.
        fingerprint: names the weights.
        max_length: most tokens of a prompt.
        batch_tokens: most tokens that a batch holds in memory: rows times the longest, with the
            part that all prompts share.
        name_categories: whether categories are read where the guard names them.

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
        max_length: int = 2048,
        batch_tokens: int = 8192,
        name_categories: bool = True,
    ) -> None:
        _check_length(model.config.get_text_config(), max_length)
        self.name, self.format, self.batch_tokens = name, entry, batch_tokens
        self.thresholds = dict(entry.thresholds)
        self.categories = entry.categories if name_categories else None
        said = f"1 {fingerprint} {entry!r} {max_length} {name_categories}"
        self.revision = hashlib.sha256(said.encode()).hexdigest()
        self.prompts = PromptBuilder(tokenizer, entry, max_length)
        self._engine = MeteredModel(model, tokenizer.pad_token_id or 0)
        self._readings = {
            (kind, number): self._resolve(kind, question)
            for kind in self.prompts.kinds()
            for number, question in enumerate(entry.questions(kind))
        }
        self._shared: dict[tuple[Kind, int], list[int]] = {
            key: self._common(*key) for key in self._readings
        }

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations; see `base.Guard`.

        A prompt that does not fit into the device's memory leaves its conversation "failed".

        Raises:
            GuardError: the device has too little memory for any prompt.
        """
        self._engine.reset()
        answers: dict[int, list[_Answer]] = {row: [] for row in range(len(conversations))}
        groups = self._jobs(conversations, answers)
        open_jobs = dict.fromkeys(answers, 0)
        for job in (job for jobs in groups.values() for job in jobs):
            open_jobs[job.row] += 1
        with torch.inference_mode():
            for key, jobs in groups.items():
                for batch in self._batches(key, jobs):
                    for job, answer in zip(batch, self._ask(key, batch), strict=True):
                        answers[job.row].append(answer)
                        open_jobs[job.row] -= 1
                    on_progress(sum(not n for n in open_jobs.values()), len(conversations))
        asked = [answer for key_answers in answers.values() for answer in key_answers]
        if asked and all(answer is TOO_LARGE for answer in asked):
            self._check_memory()
        release_memory()
        verdicts = tuple(self._verdict(answers[row]) for row in range(len(conversations)))
        return VerdictBatch(verdicts, self._engine.tokens, self._engine.operations())

    def _jobs(
        self, conversations: Sequence[Conversation], answers: dict[int, list[_Answer]]
    ) -> dict[tuple[Kind, int], list[_Job]]:
        """PromptBuilder by question; rows that make none get their answer at once."""
        texts: dict[tuple[Kind, int], list[tuple[int, str]]] = {key: [] for key in self._readings}
        for row, conversation in enumerate(conversations):
            try:
                found = self._texts(conversation)
            except Exception:  # too long; or a chat template, which raises what it likes
                answers[row].append(_Answer(None, problem="failed"))
                continue
            for key, text in found:
                texts[key].append((row, text))
            if not found:
                answers[row].append(_Answer(None, problem="empty"))
        return {key: self._tokenized(key, found) for key, found in texts.items() if found}

    def _texts(self, conversation: Conversation) -> list[tuple[tuple[Kind, int], str]]:
        """All prompts of a row, by question; none if there is nothing that the guard can judge."""
        turns = self.prompts.turns(conversation)
        if not turns:
            return []
        kind: Kind = "pair" if turns[-1].role == "assistant" else "prompt"
        return [
            ((kind, number), begun(text, question.steps[0]))
            for number, question in enumerate(self.format.questions(kind))
            for text in self.prompts.texts(question, turns)
        ]

    def _tokenized(self, key: tuple[Kind, int], texts: list[tuple[int, str]]) -> list[_Job]:
        reading = self._readings[key][0]
        ids = self.prompts.many_ids([text for _, text in texts])
        jobs = [
            _Job(row, text, reading.ids(found))
            for (row, text), found in zip(texts, ids, strict=True)
        ]
        return sorted(jobs, key=lambda job: (len(job.ids), job.row))

    def _batches(self, key: tuple[Kind, int], jobs: list[_Job]) -> Iterator[list[_Job]]:
        """Jobs of like length, as many as the budget holds; with the shared ids and without."""
        shared = self._shared[key]
        warm = [job for job in jobs if job.ids[: len(shared)] == shared]
        cold = [job for job in jobs if job.ids[: len(shared)] != shared]
        for part in (warm, cold):
            sizes = [padded_length(len(job.ids)) for job in part]
            for batch in cut(range(len(part)), sizes.__getitem__, self.batch_tokens):
                yield [part[i] for i in batch]

    def _ask(self, key: tuple[Kind, int], jobs: list[_Job]) -> list[_Answer]:
        """Put a question about every row of a batch; in halves where memory is too small for it."""
        shared = self._shared[key]
        warm = jobs[0].ids[: len(shared)] == shared
        try:
            flight = CachedBatch(self._engine, shared if warm else [], len(jobs))
            return self._answers(key, flight, jobs)
        except torch.OutOfMemoryError:
            pass  # the error holds on to the batch's tensors until this block ends
        release_memory()
        if len(jobs) == 1:
            return [TOO_LARGE]
        half = len(jobs) // 2
        return [*self._ask(key, jobs[:half]), *self._ask(key, jobs[half:])]

    @torch.inference_mode()
    def _check_memory(self) -> None:
        """Raise unless the shortest prompt fits into memory."""
        key = next(iter(self._readings))
        question = self.format.questions(key[0])[key[1]]
        text = begun(self.prompts.probes(question, key[0])[0], question.steps[0])
        if self._ask(key, self._tokenized(key, [(0, text)])) == [TOO_LARGE]:
            raise GuardError(
                f"the device has too little memory for a single prompt of {self.name}",
                hint="free memory on the device, or use another device or a smaller guard",
            )

    def _answers(
        self, key: tuple[Kind, int], flight: CachedBatch, jobs: list[_Job]
    ) -> list[_Answer]:
        question = self.format.questions(key[0])[key[1]]
        readings = self._readings[key]
        texts, ids = [job.text for job in jobs], [job.ids for job in jobs]
        problems: list[Problem | None] = [None] * len(jobs)
        for number, (step, reading) in enumerate(zip(question.steps, readings, strict=True)):
            if number:
                texts = [text + step.text for text in texts]
                ids = [reading.ids(i) for i in self.prompts.many_ids(texts)]
            logits = flight.feed(ids)
            chances, mass, labels = read(logits, reading)
            problems = [p or problem_of(m) for p, m in zip(problems, mass, strict=True)]
            if number + 1 < len(question.steps):
                texts = [text + label for text, label in zip(texts, labels, strict=True)]
        found = [None if p else c for p, c in zip(problems, chances, strict=True)]
        named = self._categories(flight, question, reading, texts, logits, found)
        return [_Answer(c, names, p) for c, names, p in zip(found, named, problems, strict=True)]

    def _categories(
        self,
        flight: CachedBatch,
        question: Question,
        reading: TokenLabels,
        texts: list[str],
        logits: Tensor,
        chances: list[float | None],
    ) -> list[tuple[str, ...]]:
        """What the guard names for the rows that it finds unsafe; written out greedily."""
        named: list[tuple[str, ...]] = [()] * len(texts)
        least = min(self.thresholds.values())
        unsafe = [i for i, chance in enumerate(chances) if chance is not None and chance >= least]
        if question.category:
            return [(question.category,) if i in unsafe else () for i in range(len(texts))]
        line = self.categories
        if line is None or not unsafe:
            return named
        flight.keep(unsafe)
        ids = list(reading.unsafe)
        best = logits[unsafe][:, ids].argmax(-1).tolist()
        begun_texts = [
            texts[i] + reading.unsafe[ids[b]] + line.after
            for i, b in zip(unsafe, best, strict=True)
        ]
        names = sorted(line.names, key=len, reverse=True)
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(n)}(?!\w)" for n in names))
        written = self._written(flight, begun_texts, line.stop, line.limit)
        for i, text in zip(unsafe, written, strict=True):
            found = dict.fromkeys(pattern.findall(text.split(line.stop)[0]))
            named[i] = tuple(line.names[name] for name in found)
        return named

    def _written(self, flight: CachedBatch, texts: list[str], stop: str, limit: int) -> list[str]:
        """How the guard goes on from each text, up to a stop string, an end token or a limit."""
        ids = self.prompts.many_ids(texts)
        said: list[list[int]] = [[] for _ in ids]
        done = [False] * len(ids)
        decode = self.prompts.tokenizer.decode
        for _ in range(limit):
            chosen = flight.feed(ids).argmax(-1).tolist()
            ids = [[*i, token] for i, token in zip(ids, chosen, strict=True)]
            for k, token in enumerate(chosen):
                done[k] = done[k] or token in self._engine.ends
                if not done[k]:
                    said[k].append(token)
                    done[k] = stop in decode(said[k])
            if all(done):
                break
        return [str(decode(tokens, skip_special_tokens=True)) for tokens in said]

    def _verdict(self, answers: Sequence[_Answer]) -> Verdict:
        """The unsafest answer counts; one that is missing counts unless another says unsafe."""
        guard = f"{self.name}@{self.revision[:12]}"
        worst = unsafest(answers, self.thresholds["loose"])
        if worst.probability is None:
            return Verdict(None, guard, problem=worst.problem)
        by_risk = sorted(answers, key=lambda a: -(a.probability or 0.0))
        names = dict.fromkeys(name for answer in by_risk for name in answer.categories)
        return Verdict(worst.probability, guard, tuple(names))

    def _resolve(self, kind: Kind, question: Question) -> list[TokenLabels]:
        """Find the token of every label where it would stand, and check that they differ."""
        text, readings = self.prompts.probes(question, kind)[0], []
        for number, step in enumerate(question.steps):
            text = begun(text, step) if number == 0 else text + step.text
            readings.append(self._reading(text, step))
            text += step.safe[0]
        return readings

    def _reading(self, text: str, step: Step) -> TokenLabels:
        plain, *together = self.prompts.many_ids(
            [text, *(text + label for label in (*step.unsafe, *step.safe))]
        )
        labelled = dict(zip((*step.unsafe, *step.safe), together, strict=True))
        return resolve(
            plain,
            {label: labelled[label] for label in step.unsafe},
            {label: labelled[label] for label in step.safe},
        )

    def _common(self, kind: Kind, number: int) -> list[int]:
        """Ids that all prompts of a question begin with, whatever the conversation."""
        question = self.format.questions(kind)[number]
        texts = [begun(t, question.steps[0]) for t in self.prompts.probes(question, kind)]
        shared = common_start(self.prompts.many_ids(texts))
        return shared if len(shared) >= LEAST_SHARED else []


def begun(text: str, step: Step) -> str:
    """A prompt with the beginning of the guard's answer; line breaks only where they are missing.

    Llama Guard's own template stops before the blank line that its answers begin with.
    """
    return text.rstrip("\n") + step.text if step.text.isspace() else text + step.text


def sampled(folder: Path) -> str:
    """Hash of blocks spread over the weights; tells fine-tuned copies apart without reading all."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            for i in range(BLOCKS):
                opened.seek(size * i // BLOCKS)
                digest.update(opened.read(4096))
    return digest.hexdigest()


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
