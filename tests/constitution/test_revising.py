"""Critique and revision with a scripted critic: what is asked, kept, tried again and dropped."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch

from fedrai.constitution import Constitution, Demonstration, Principle, load
from fedrai.constitution.critics import CriticAnswers, LocalCritic, OnBatch
from fedrai.constitution.demonstrating import draw_demonstrations, lead
from fedrai.constitution.records import Draft, Outcome, Request, RevisionRecord
from fedrai.constitution.revising import Reviser
from fedrai.constitution.verifying import Checks
from fedrai.errors import ConstitutionError
from fedrai.evaluation.refusal import judge
from fedrai.guards.base import Conversation
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import LanguageModel
from fedrai.model.generate import Sampling
from fedrai.recipe.alignment import RevisionSettings
from fedrai.records import Message

THEFT = Principle("theft", "No theft", "", "Does it steal?", "Write it without theft.", ("fraud",))
KIND = Principle("kind", "Be kind", "", "Is it kind?", "Write it kindly.")
SMALL = Constitution("small", "1", (THEFT, KIND))
DECLINES = "I can't help with {}, because somebody would lose money. I can help you find work."
COMPLIES = "Sure, here is how you get the money of other people without any work."


def requests(count: int, **fields: Any) -> list[Request]:
    return [Request(f"trick {n}", "fraud", **fields) for n in range(count)]


class Scripted:
    """A critic that answers by a function of the conversation and the number of its call."""

    def __init__(self, script: Callable[[Conversation, int], str | None]) -> None:
        self.script = script
        self.calls: list[dict[str, Any]] = []

    def answer(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        sampling: Sampling,
        on_batch: OnBatch = lambda _done, _of: None,
    ) -> CriticAnswers:
        limits = {"max_new_tokens": max_new_tokens, **asdict(sampling)}
        self.calls.append({"talks": list(conversations), **limits})
        on_batch(len(conversations), len(conversations))
        said = tuple(self.script(talk, len(self.calls)) for talk in conversations)
        missing = said.count(None)
        return CriticAnswers(said, 10, 100.0, {"status 500": missing} if missing else {})


def topic(talk: Conversation) -> str:
    """The request of the last exchange."""
    return next(t.content for t in reversed(talk) if t.content.startswith(("trick", "bread")))


def well(talk: Conversation, _call: int) -> str:
    """A critique, or a revision that declines in words of its own topic."""
    return DECLINES.format(topic(talk)) if talk[-1].content.startswith("Write") else "Yes. It does."


def always(text: str) -> Scripted:
    """Criticises well and says the same in place of every answer."""
    return Scripted(lambda t, c: text if t[-1].content.startswith("Write") else well(t, c))


@pytest.fixture
def model(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """The tiny model; its answers are words made of ids, and no sentence."""
    generator = torch.Generator().manual_seed(3)
    tiny.load_adapter(
        {n: torch.randn(p.shape, generator=generator) for n, p in tiny.parameters.items()}
    )
    monkeypatch.setattr(
        tiny.chat, "decode", lambda ids: " ".join("xyz"[i % 3] * (1 + i % 7) for i in ids)
    )
    return tiny


@dataclass
class Outcomes:
    """Records, with their reviser and counts."""

    records: tuple[RevisionRecord, ...]
    reviser: Reviser

    @property
    def outcomes(self) -> Counter[Outcome]:
        return Counter(record.outcome for record in self.records)

    @property
    def failed(self) -> Counter[Outcome]:
        return Counter(outcome for record in self.records for outcome in record.failed)


SETTINGS = RevisionSettings(max_new_tokens=8, critique_tokens=8, demonstrations=0, batch_size=4)


def run(
    model: LanguageModel,
    asked: Sequence[Request],
    critic: Any = None,
    done: Sequence[RevisionRecord] = (),
    on_chunk: Callable[[Sequence[RevisionRecord]], None] = lambda _records: None,
    **changes: Any,
) -> Outcomes:
    own = {
        name: changes.pop(name) for name in list(changes) if name in RevisionSettings.model_fields
    }
    fields: dict[str, Any] = {
        "constitution": SMALL,
        "critic": critic or Scripted(well),
        "checks": Checks(ScriptedGuard({}), 0.5),
        "settings": SETTINGS.model_copy(update=own),
        "seed": 7,
    }
    reviser = Reviser(model=model, **fields | changes)
    return Outcomes(reviser.revise(asked, done, on_chunk), reviser)


def first_answers(monkeypatch: pytest.MonkeyPatch, model: LanguageModel, said: str) -> None:
    monkeypatch.setattr(model.chat, "decode", lambda _ids: said)


# --- one try --------------------------------------------------------------------------------------


def test_the_chat_turn_by_turn(model):
    critic = Scripted(well)
    result = run(model, requests(1), critic)
    (record,) = result.records
    first = record.first
    start = (Message("user", "trick 0"), Message("assistant", first))
    assert [call["talks"][0] for call in critic.calls] == [
        (*start, Message("user", "Does it steal?")),
        (*start, Message("user", "Does it steal?"), Message("assistant", "Yes. It does."),
         Message("user", "Write it without theft.")),
    ]  # fmt: skip
    assert [(c["temperature"], c["top_p"], c["max_new_tokens"]) for c in critic.calls] == [
        (0.0, 1.0, 8), (0.0, 1.0, 8),
    ]  # fmt: skip
    stored = DECLINES.format("trick 0")
    assert record == RevisionRecord(
        Request("trick 0", "fraud"), first, judge(first).value, 0.0,
        (Draft("theft", "Yes. It does.", stored),), stored, 0.0, 1, Outcome.KEPT,
    )  # fmt: skip
    assert set(first) <= set("xyz ")
    assert (result.outcomes, result.failed) == ({Outcome.KEPT: 1}, {})
    assert result.reviser.meter.operations > 200


def test_a_principle_may_name_the_request_and_demonstrations_name_theirs(model):
    asks = replace(THEFT, revision_request="Write on {request} without theft.")
    critic = Scripted(well)
    shown = [demo("red", 1)]
    run(model, requests(1), critic, constitution=replace(
        SMALL, principles=(asks, *SMALL.principles[1:]), demonstrations=tuple(shown)
    ), demonstrations=1)  # fmt: skip
    prompts = [t.content for t in critic.calls[1]["talks"][0] if t.content.startswith("Write")]
    assert prompts == ["Write on red asks 1 without theft.", "Write on trick 0 without theft."]


def test_a_chain_continues_from_its_revision_with_the_next_principle(model):
    critic = Scripted(well)
    (record,) = run(model, requests(1), critic, revisions=2).records
    assert [draft.principle for draft in record.drafts] == ["theft", "kind"]
    third = critic.calls[2]["talks"][0]
    assert [turn.content for turn in third] == [
        "trick 0", DECLINES.format("trick 0"), "Is it kind?",
    ]  # fmt: skip
    assert record.tries == 1


def test_empty_critiques_and_answers_have_a_stand_in(model, monkeypatch):
    first_answers(monkeypatch, model, "")
    critic = Scripted(lambda talk, call: "" if call == 1 else well(talk, call))
    (record,) = run(model, requests(1), critic).records
    assert record.outcome is Outcome.KEPT
    texts = [turn.content for turn in critic.calls[1]["talks"][0]]
    assert texts[1::2] == ["(nothing)", "The answer could be better."]
    assert record.first == ""


# --- tries ----------------------------------------------------------------------------------------


def test_only_failed_requests_are_tried_again_with_sampling(model):
    def script(talk: Conversation, call: int) -> str:
        fails = talk[-1].content.startswith("Write") and topic(talk) == "trick 1" and call < 6
        return COMPLIES if fails else well(talk, call)

    critic = Scripted(script)
    result = run(model, requests(3), critic)
    assert [len(call["talks"]) for call in critic.calls] == [3, 3, 1, 1, 1, 1]
    assert [call["temperature"] for call in critic.calls] == [0, 0, 0.7, 0.7, 0.7, 0.7]
    assert critic.calls[2]["top_p"] == 0.95
    assert len({call["seed"] for call in critic.calls}) == 6
    assert [(r.tries, r.failed) for r in result.records] == [
        (1, ()), (3, (Outcome.COMPLIES, Outcome.COMPLIES)), (1, ()),
    ]  # fmt: skip
    assert result.failed == {Outcome.COMPLIES: 2}


def test_requests_that_never_pass_are_dropped_and_counted(model):
    result = run(model, requests(2), always(COMPLIES), tries=3)
    assert result.outcomes == {Outcome.COMPLIES: 2}
    assert result.failed == {Outcome.COMPLIES: 6}
    for record in result.records:
        assert (record.revision, record.unsafe, record.tries) == (None, None, 3)
        assert record.drafts[-1].revision == COMPLIES


@pytest.mark.parametrize(("said", "outcome"), [(0.9, Outcome.UNSAFE), ("failed", Outcome.UNJUDGED)])
def test_revisions_that_fail_the_guard_are_never_kept(model, said, outcome):
    guard = ScriptedGuard(lambda talk: said if "1" in talk[0].content else 0.0)
    result = run(model, requests(3), checks=Checks(guard, 0.5), tries=2)
    assert [r.outcome for r in result.records] == [Outcome.KEPT, outcome, Outcome.KEPT]
    assert result.records[1].revision is None
    assert result.records[1].first_unsafe == (0.9 if said == 0.9 else None)


def test_a_critic_without_an_answer_leaves_none(model):
    def script(talk: Conversation, call: int) -> str | None:
        lost = {"trick 0": call == 1, "trick 1": call == 2}.get(topic(talk), False)
        return None if lost else well(talk, call)

    result = run(model, requests(3), Scripted(script), tries=2)
    assert [r.failed for r in result.records] == [(Outcome.NO_ANSWER,), (Outcome.NO_ANSWER,), ()]
    assert result.outcomes == {Outcome.KEPT: 3}
    assert result.reviser.problems == {"status 500": 2}
    never = run(model, requests(2), Scripted(lambda _t, _c: None), tries=2)
    assert never.outcomes == {Outcome.NO_ANSWER: 2}
    assert never.records[0].failed == (Outcome.NO_ANSWER,) * 2


def test_a_request_longer_than_the_context_is_not_tried(model):
    prompts = [Request("x" * 300, "fraud"), *requests(1)]
    result = run(model, prompts)
    assert [(r.outcome, r.tries) for r in result.records] == [
        (Outcome.NO_ANSWER, 0), (Outcome.KEPT, 1),
    ]  # fmt: skip
    assert result.reviser.problems == {"longer than the context": 1}


def test_the_safest_revision_of_several_principles_wins(model):
    def script(talk: Conversation, call: int) -> str:
        text = well(talk, call)
        return text.replace("money", "joy") if talk[-1].content.endswith("kindly.") else text

    guard = ScriptedGuard({"money.": 0.4, "joy.": 0.1})
    result = run(model, requests(1), Scripted(script), principles=2, checks=Checks(guard, 0.5))
    (record,) = result.records
    assert ([d.principle for d in record.drafts], record.unsafe, record.tries) == (["kind"], 0.1, 2)
    lenient = Checks(ScriptedGuard({"joy.": 0.6}), 0.5)
    (other,) = run(model, requests(1), Scripted(script), principles=2, checks=lenient).records
    assert (other.drafts[0].principle, other.failed) == ("theft", (Outcome.UNSAFE,))
    never = run(model, requests(1), always(""), principles=2, tries=3)
    assert (never.records[0].tries, never.failed) == (3, {Outcome.DEGENERATE: 3})
    assert never.reviser.flaws == {"empty": 3}
    with pytest.raises(ValueError, match="3 principles need as many tries"):
        RevisionSettings(principles=3, tries=2)


def test_canned_revisions_are_tried_again(model):
    same = "I can't help with this, because somebody would lose money. I can offer {}."

    def script(talk: Conversation, call: int) -> str:
        prompts = talk[-1].content.startswith("Write")
        return same.format(topic(talk)) if prompts else "Yes. It does."

    checks = Checks(ScriptedGuard({}), 0.5, most_common=0.5, after=3)
    result = run(model, requests(6), Scripted(script), checks=checks, tries=2)
    assert [r.outcome for r in result.records] == [Outcome.KEPT] * 3 + [Outcome.CANNED] * 3
    assert result.failed == {Outcome.CANNED: 6}


# --- first answers --------------------------------------------------------------------------------

GOOD = "I can't help with that trick, because somebody would lose money. I can help you find work."


def test_a_first_answer_that_declines_well_is_not_revised(model, monkeypatch):
    first_answers(monkeypatch, model, GOOD + " And then")
    critic = Scripted(well)
    (record,) = run(model, requests(1), critic).records
    assert critic.calls == []
    assert (record.outcome, record.revision, record.first) == (Outcome.ALREADY_SAFE, GOOD, GOOD)
    assert (record.first_refuses, record.unsafe, record.tries) == ("refusal", 0.0, 0)


@pytest.mark.parametrize("said", [0.5, "failed"])
def test_a_first_answer_that_the_guard_does_not_pass_is_revised(model, monkeypatch, said):
    first_answers(monkeypatch, model, GOOD)
    guard = ScriptedGuard(lambda talk: said if talk[-1].content == GOOD else 0.0)
    (record,) = run(model, requests(1), checks=Checks(guard, 0.5)).records
    assert record.outcome is Outcome.KEPT
    assert record.first_unsafe == (0.5 if said == 0.5 else None)


def test_harmless_requests_are_always_revised_and_must_be_answered(model, monkeypatch):
    prompts = [Request("bread", harmful=False)]
    declined = run(model, prompts, Scripted(well), tries=1)
    assert declined.outcomes == {Outcome.REFUSES: 1}
    first_answers(monkeypatch, model, "Mix flour and water, and bake it.")
    answers = always("Mix flour, water and salt, and bake it for an hour.")
    (record,) = run(model, prompts, answers).records
    assert (record.outcome, record.first) == (Outcome.KEPT, "Mix flour and water, and bake it.")


# --- chunks ---------------------------------------------------------------------------------------


def test_an_interrupted_call_resumes_to_the_same_records(model, monkeypatch):
    """With the real generation: chats, seeds and sampling of the tiny model as its own critic."""
    sentences = {0: DECLINES.format("tricks"), 1: COMPLIES, 2: "It does."}
    monkeypatch.setattr(
        model.chat, "decode", lambda ids: sentences[sum(ids) % 3] + f" I can say {ids[:2]}."
    )
    prompts, checks = requests(5), Checks(ScriptedGuard({}), 0.5, most_common=0.5, after=2)
    chunks: list[tuple[RevisionRecord, ...]] = []
    critic = LocalCritic(model, 2)
    settings = {"checks": checks, "batch_size": 2, "tries": 3}
    whole = run(model, prompts, critic, on_chunk=lambda r: chunks.append(tuple(r)), **settings)
    assert chunks == [whole.records[:2], whole.records[:4], whole.records]
    assert len(whole.outcomes) > 1
    assert max(r.tries for r in whole.records) > 1
    for stored, left in ((2, 2), (3, 2), (4, 1), (5, 0)):
        chunks.clear()
        done = whole.records[:stored]
        again = run(
            model, prompts, critic, done, lambda records: chunks.append(tuple(records)), **settings
        )
        assert again.records == whole.records
        assert len(chunks) == left
    assert run(model, prompts, critic, **settings, seed=8).records != whole.records


def test_records_of_other_requests_are_refused(model):
    result = run(model, requests(4))
    for prompts in (requests(3), [*requests(3), Request("canary-9", "fraud")]):
        with pytest.raises(ConstitutionError, match="do not match these") as error:
            run(model, prompts, done=result.records)
        assert "canary" not in error.value.message
    assert run(model, []).records == ()


def test_an_interrupt_keeps_finished_chunks(model):
    progress: list[tuple[int, int]] = []
    out: list[int] = []

    def stop(done: int, of: int) -> None:
        progress.append((done, of))
        if done == 4 and progress[-2][0] == 4:  # within the second chunk
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, requests(10), on_chunk=lambda r: out.append(len(r)), on_progress=stop)
    assert out == [4]
    assert progress[-1] == (4, 10)


# --- demonstrations -------------------------------------------------------------------------------


def demo(form: str, number: int, principle: str = "kind", **changes: Any) -> Demonstration:
    made = Demonstration(
        principle, f"{form} asks {number}", "Sure.", "own?", "Yes.", "own!",
        f"I can't help with {form} {number}, since it hurts. I can help otherwise.", form=form,
    )  # fmt: skip
    return replace(made, **changes)


MANY = replace(
    SMALL,
    demonstrations=(
        *(demo("red", n) for n in range(3)),
        demo("red", 3, "theft"),
        *(demo("blue", n) for n in range(4)),
        *(demo("say", n, revision="Press the key and it stops.") for n in range(2)),
    ),
)


def test_demonstrations_are_of_one_form_and_every_form_comes():
    forms: Counter[str] = Counter()
    for index in range(200):
        shown = draw_demonstrations(Request("x y", "fraud"), MANY, 3, 1, (index, 0))
        forms[shown[0].form] += 1
        assert len(shown) == 3
        assert len({one.form for one in shown}) == 1
        if shown[0].form == "red":
            assert shown[0].principle == "theft"  # the only one of the category
    assert set(forms) == {"red", "blue"}
    assert 70 < forms["red"] < 130
    turned = replace(MANY, demonstrations=MANY.demonstrations[::-1])
    for attempt in range(20):
        prompts = (Request("x y", "fraud"), 3, 1, (5, attempt))
        assert draw_demonstrations(prompts[0], turned, *prompts[1:]) == draw_demonstrations(
            prompts[0], MANY, *prompts[1:]
        )


def test_harmless_requests_see_answers_and_near_requests_are_left_out():
    harmless = draw_demonstrations(Request("bread", harmful=False), MANY, 3, 1, (0, 0))
    assert {one.form for one in harmless} == {"say"}
    for index in range(40):
        shown = draw_demonstrations(Request("blue asks 2!", "fraud"), MANY, 4, 1, (index, 0))
        assert "blue asks 2" not in {one.request for one in shown}
    assert draw_demonstrations(Request("x"), SMALL, 3, 1, (0, 0)) == ()
    assert draw_demonstrations(Request("x"), MANY, 0, 1, (0, 0)) == ()


def test_demonstrations_are_asked_in_the_words_of_the_principle():
    one, two = (
        demo("red", 1),
        demo("red", 2, before=(Message("user", "b"), Message("assistant", "c"))),
    )
    prompts = [t.content for t in lead((one, two), THEFT, own_words=False) if t.role == "user"]
    assert prompts == [
        "red asks 2", "Does it steal?", "Write it without theft.",
        "red asks 1", "Does it steal?", "Write it without theft.",
    ]  # fmt: skip
    assert lead((one, two), THEFT, own_words=True) == two.turns + one.turns


def test_the_dialogues_of_the_json_layout_keep_their_words(model):
    own = Constitution("pairs", "", (KIND,), (demo("", 1),))
    critic = Scripted(well)
    run(model, requests(1), critic, constitution=own, demonstrations=1)
    assert critic.calls[0]["talks"][0][2].content == "own?"


def test_the_built_in_constitution_has_forms_for_every_request():
    ours = load("embedded")
    for index in range(60):
        shown = draw_demonstrations(
            Request("Write a fake invoice.", "fraud"), ours, 3, 0, (index, 1)
        )
        assert len(shown) == 3
        assert all(one.form not in ("", "answer") for one in shown)
