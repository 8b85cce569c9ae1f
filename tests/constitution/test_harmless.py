"""Harmless answers: which source is taken, what is wrong with others, and going on from a chunk."""

import json
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrai.constitution import harmless
from fedrai.constitution.harmless import Answerer, HarmlessAnswer, flaw, trim_to_line
from fedrai.constitution.records import Request
from fedrai.errors import ConstitutionError
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import LanguageModel
from fedrai.model.generate import Generation
from fedrai.recipe.alignment import Mix, RevisionSettings

GOOD = "A snail carries its house on its back."
NO = "I can't help with that."
LOOP = "and so on " * 30


def request(prompt: str, reference: str = "") -> Request:
    return Request(prompt, "other", "a file", "homonym", harmful=False, answer=reference)


class Scripted:
    """Stands for generation: answers by prompt, with the adapter and without."""

    def __init__(self, own: Mapping[str, str], base: Mapping[str, str]) -> None:
        self.own, self.base = own, base
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, model, prompts, **_settings) -> Generation:
        off = any(getattr(m, "disable_adapters", None) is True for m in model.peft.modules())
        asked = [turns[-1].content for turns in prompts]
        self.calls.append(("base" if off else "model", asked))
        answers = tuple((self.base if off else self.own)[text] for text in asked)
        return Generation(answers, prompt_tokens=10 * len(asked), new_tokens=5, operations=100.0)


def make(model: LanguageModel, guard=None, threshold=0.5, seed=0, **options) -> Answerer:
    """An answerer, with keys of `revising` and `mix`; the model answers before the base model."""
    mix = {"answered_by": "model"} | {k: v for k, v in options.items() if k in Mix.model_fields}
    sizes = {k: v for k, v in options.items() if k in RevisionSettings.model_fields}
    revising = RevisionSettings().model_copy(update=sizes)
    return Answerer(model, guard, threshold, revising, Mix(**mix), seed)


@pytest.fixture
def said(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """Run `answer` on scripted answers of the model and the base model."""

    def run(requests, own, base=None, **options):
        script = Scripted(own, base or {})
        monkeypatch.setattr(harmless, "generate", script)
        done = options.pop("done", ())
        answerer = make(tiny, **{"batch_size": 8, "max_new_tokens": 1000} | options)
        return answerer.answer(requests, done), script

    return run


def test_sources_answer_one_after_another(said):
    prompts = [
        request("fine"), request("refused"), request("loops"), request("hard", "From the book."),
        request("lost"),
    ]  # fmt: skip
    own = {"fine": GOOD, "refused": NO, "loops": LOOP, "hard": NO, "lost": NO}
    base = {"refused": "It crawls.", "loops": GOOD, "hard": "", "lost": "Sorry, I won't do it."}
    result, script = said(prompts, own, base)
    assert script.calls == [("model", [*own]), ("base", ["refused", "loops", "hard", "lost"])]
    assert result == (
        HarmlessAnswer(prompts[0], GOOD, None, "model"),
        HarmlessAnswer(prompts[1], "It crawls.", NO, "base", ("refuses",)),
        HarmlessAnswer(prompts[2], GOOD, None, "base", ("degenerate",)),
        HarmlessAnswer(prompts[3], "From the book.", NO, "reference", ("refuses", "degenerate")),
        HarmlessAnswer(prompts[4], None, NO, None, ("refuses", "refuses")),
    )


def test_the_base_model_alone_can_answer(said):
    prompts = [request("a"), request("b")]
    result, script = said(prompts, {"a": NO, "b": NO}, {"a": GOOD, "b": NO}, answered_by="base")
    assert [call for call, _ in script.calls] == ["base"]
    assert [entry.by for entry in result] == ["base", None]
    assert [entry.refused for entry in result] == [None, None]  # the model was not asked


def test_a_reference_answer_must_pass_the_checks_too(said):
    result, _ = said([request("a", NO)], {"a": ""}, {"a": LOOP})
    assert result[0].failed == ("degenerate", "degenerate", "refuses")
    assert result[0].answer is None


def test_answers_that_are_unsafe_or_without_a_verdict_are_rejected(said):
    prompts = [request(name, "From the book.") for name in "abc"]
    own = {"a": "A poison works so.", "b": "Mystery stays.", "c": GOOD}
    base = {"a": "Mild poison here.", "b": GOOD}

    def script(turns):
        text = turns[-1].content
        return "failed" if "Mystery" in text else 0.6 * ("poison" in text)

    guard = ScriptedGuard(script)
    result, _ = said(prompts, own, base, guard=guard, threshold=0.6)
    assert [(entry.by, entry.failed) for entry in result] == [
        ("reference", ("unsafe", "unsafe")),
        ("base", ("unjudged",)),
        ("model", ()),
    ]
    assert guard.seen == 3 + 2 + 1
    loose, _ = said(prompts, own, base, guard=guard, threshold=0.61)
    assert loose[0].by == "model"


def test_the_guard_sees_request_and_answer_and_no_refusal(said):
    calls = []
    guard = ScriptedGuard(lambda turns: calls.append([t.content for t in turns]) or 0.0)
    said([request("a"), request("b")], {"a": GOOD, "b": NO}, {"b": GOOD}, guard=guard)
    assert calls == [["a", GOOD], ["b", GOOD]]


def test_a_share_of_references_is_taken_first_by_seed_and_request(said):
    prompts = [request(f"q{n}", "From the book.") for n in range(400)] + [request("none")]
    own = {entry.prompt: GOOD for entry in prompts}
    result, _ = said(prompts, own, self_answered=0.75)
    first = {e.request.prompt for e in result if e.by == "reference"}
    assert 70 <= len(first) <= 130  # 100 on average, spread 8.7
    assert result[-1].by == "model"
    again, script = said(prompts[::-1], own, self_answered=0.75, batch_size=7)
    assert {e.request.prompt for e in again if e.by == "reference"} == first
    assert not first & {prompt for _, prompts in script.calls for prompt in prompts}
    other, _ = said(prompts, own, self_answered=0.75, seed=1)
    assert {e.request.prompt for e in other if e.by == "reference"} != first
    every, script = said(prompts, own, self_answered=0.0)
    assert sum(e.by == "reference" for e in every) == 400
    assert script.calls[-1] == ("model", ["none"])


def test_answers_that_the_limit_cuts_lose_their_last_sentence(said):
    own = {
        "cut": "A snail has a shell. It eats gre",
        "short": "Yes. But then it goes on in a long",
        "ends": "It has one foot and 1 big shell.",
        "list": "- one\n- two",
    }
    base = {"short": "In it."}
    result, _ = said([request(p) for p in own], own, base, max_new_tokens=32)
    assert [(e.answer, e.by) for e in result] == [
        ("A snail has a shell.", "model"),
        ("In it.", "base"),
        (own["ends"], "model"),
        (own["list"], "model"),  # shorter than the limit: it ended there by itself
    ]
    assert result[1].failed[0] == "degenerate"


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One two. Three fo", "One two."),
        ('He said "Go home." Then he', 'He said "Go home."'),
        ("It costs 3.50 a", ""),
        ("Do this:\n1. Peel them.\n2. Boil", "Do this:\n1. Peel them."),
        ("Do this:\n1. Peel them\n2. Boil", "Do this:\n1. Peel them"),
        ("Here is how:\n\n1. Pe", ""),
        ("It costs 5. That is", "It costs 5."),
        ("Whole!", "Whole!"),
        ("", ""),
        ("...", "..."),
        ("no end at all", ""),
    ],
)
def test_trimming_by_hand(text, kept):
    assert trim_to_line(text) == kept


@given(st.text(alphabet=st.sampled_from('ab1. \n:!?")🏔'), max_size=60))
def test_a_trimmed_text_is_a_prefix_of_whole_lines_and_sentences(text):
    stored = trim_to_line(text)
    assert text.startswith(stored)
    assert trim_to_line(f"{stored}\n") == stored
    assert not stored.endswith((":", " ", "\n"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD, None),
        ("Paris.", None),
        ("", "degenerate"),
        ("?! ...", "degenerate"),
        (NO, "refuses"),
        ("What is it?", "degenerate"),
        ("what IS  it", "degenerate"),
        ("One may walk along the river now. " * 3, "degenerate"),
        ("One may walk along the river now. " * 2, None),
        ("\x00\x07", "degenerate"),
        ("🏔️" * 50, "degenerate"),
        ("word " * 200_000, "degenerate"),
    ],
)
def test_flaws_by_hand(text, problem):
    assert flaw("What is it?", text) == problem


def test_an_answer_comes_back_from_json():
    entry = HarmlessAnswer(request("a", "b"), None, NO, None, ("refuses", "unsafe"))
    assert HarmlessAnswer.from_json(json.loads(json.dumps(entry.to_json()))) == entry


# --- resuming -------------------------------------------------------------------------------------


@pytest.fixture
def lively(tiny: LanguageModel) -> LanguageModel:
    """The tiny model with an adapter that gives every prompt an answer of its own."""
    generator = torch.Generator().manual_seed(1)
    tiny.load_adapter(
        {n: torch.randn(p.shape, generator=generator) for n, p in tiny.parameters.items()}
    )
    return tiny


def test_an_interrupted_call_resumes_to_the_same_answers(lively):
    prompts = [request(f"Question {n}?" + "x" * n, "From the book." * (n % 2)) for n in range(10)]
    progress, chunks = [], []

    def answerer() -> Answerer:
        return make(lively, batch_size=4, max_new_tokens=8)

    first = answerer()
    first.on_progress = lambda done, of: progress.append((done, of))
    whole = first.answer(prompts, on_chunk=lambda answers: chunks.append(tuple(answers)))
    assert progress == [(4, 10), (8, 10), (10, 10)]
    assert chunks == [whole[:4], whole[:8], whole]
    stored: list[HarmlessAnswer] = []

    def stop(answers):
        stored[:] = answers
        if len(stored) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answerer().answer(prompts, on_chunk=stop)
    assert stored == list(whole[:8])
    for done in (stored, whole[:9]):  # what is no whole chunk is answered again
        rest = answerer()
        assert rest.answer(prompts, done) == whole
        assert 0 < rest.meter.tokens < first.meter.tokens
    finished = answerer()
    assert finished.answer(prompts, whole) == whole
    assert finished.meter.tokens == 0


def test_answers_to_other_requests_are_refused(said):
    prompts = [request(name) for name in "abcde"]
    own = {entry.prompt: GOOD for entry in prompts}
    whole, _ = said(prompts, own, batch_size=2)
    for done in (whole[2:4], (*whole, whole[0])):
        with pytest.raises(ConstitutionError) as caught:
            said(prompts, own, batch_size=2, done=done)
        assert "snail" not in str(caught.value)


def test_no_requests(said):
    answers, script = said([], {})
    assert (answers, script.calls) == ((), [])


def test_use_of_the_model_is_counted(tiny, monkeypatch):
    monkeypatch.setattr(harmless, "generate", Scripted({"a": NO, "b": GOOD}, {"a": GOOD}))
    answerer = make(tiny, batch_size=8, max_new_tokens=1000)
    answerer.answer([request("a"), request("b")])
    assert (answerer.meter.tokens, answerer.meter.operations) == (10 * 3 + 2 * 5, 200.0)
