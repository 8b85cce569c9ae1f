"""Turns as others write them: parts, tools, ShareGPT; and what of it no training can read."""

import json

import pytest

from fedrai.data import turns_of
from fedrai.data.texts import check_order, with_system
from fedrai.records import Message

CANARY = "canary-c0de"


def turn(role, content, **more):
    return {"role": role, "content": content} | more


def pairs(turns, **options):
    return [(m.role, m.content) for m in turns_of(turns, **options)]


def problem(turns):
    with pytest.raises(ValueError, match="turn") as caught:
        turns_of(turns)
    assert CANARY not in str(caught.value)
    return str(caught.value)


# --- content --------------------------------------------------------------------------------------


def test_parts_of_text_are_joined_as_chat_templates_join_them():
    parts = [{"type": "text", "text": "Two "}, {"type": "text", "text": "miles."}]
    answer_parts = [
        {"type": "output_text", "text": "No: "},
        {"type": "refusal", "refusal": "sorry"},
    ]
    assert pairs([turn("user", parts), turn("assistant", answer_parts)]) == [
        ("user", "Two miles."), ("assistant", "No: sorry")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "thinking"])
def test_a_part_that_is_no_text_is_named(kind):
    parts = [{"type": "text", "text": CANARY}, {"type": kind, kind: {"url": CANARY}}]
    assert problem([turn("user", parts), turn("assistant", "x")]) == (
        f"content of turn 1 is not text but list: a part of it is not text ({kind})"
    )


def test_a_kind_of_part_that_may_be_text_is_not_printed():
    assert problem([turn("user", [{"type": CANARY}])]).endswith("a part of it is not text")


def test_parts_without_any_text_are_empty():
    assert problem([turn("user", [])]) == "content of turn 1 is empty"
    assert pairs([turn("user", None), turn("assistant", [])], blank=True) == [
        ("user", ""), ("assistant", "")
    ]  # fmt: skip


# --- roles ----------------------------------------------------------------------------------------


def test_sharegpt_turns():
    talk = [
        {"from": "system", "value": "Be brief."}, {"from": "human", "value": "How far?"},
        {"from": "gpt", "value": "Two miles."},
    ]  # fmt: skip
    assert pairs(talk) == [
        ("system", "Be brief."), ("user", "How far?"), ("assistant", "Two miles.")
    ]  # fmt: skip
    assert pairs(json.dumps(talk)) == pairs(talk)


def test_other_names_of_roles():
    names = ["developer", "User", "model", "human", "chatgpt"]
    assert [role for role, _ in pairs([turn(name, "x") for name in names])] == [
        "system", "user", "assistant", "user", "assistant"
    ]  # fmt: skip


# --- tools ----------------------------------------------------------------------------------------

CALL = {"id": "1", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Köln"}}}  # fmt: skip
LINE = '{"name": "weather", "arguments": {"city": "Köln"}}'


def test_a_conversation_with_tools_is_read_so_that_any_template_takes_it():
    turns = turns_of([
        turn("user", "Warm?"),
        turn("assistant", None, tool_calls=[CALL, CALL]),
        turn("tool", "21 degrees", tool_call_id="1"),
        turn("tool", "22 degrees", tool_call_id="2"),
        turn("assistant", "Yes.", tool_calls=None),
    ])  # fmt: skip
    assert [(m.role, m.content) for m in turns] == [
        ("user", "Warm?"), ("assistant", f"{LINE}\n{LINE}"),
        ("user", "21 degrees\n\n22 degrees"), ("assistant", "Yes."),
    ]  # fmt: skip
    check_order(turns)


def test_a_call_after_what_the_assistant_says_and_arguments_as_text():
    call = {"function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    assert pairs([turn("assistant", "Let me see.", tool_calls=[call])]) == [
        ("assistant", f"Let me see.\n{LINE}")
    ]
    old = turn("assistant", None, function_call={"name": "weather", "arguments": {"city": "Köln"}})
    assert pairs([old, turn("function", "21", name="weather")]) == [
        ("assistant", LINE), ("user", "21")
    ]  # fmt: skip


def test_a_call_that_cannot_be_read_is_named():
    calls = [{"function": {"name": [CANARY]}}]
    assert problem([turn("assistant", CANARY, tool_calls=calls)]) == (
        "turn 1 has a tool call without a name"
    )


def test_an_assistant_without_content_and_without_calls_is_empty():
    assert problem([turn("user", "x"), turn("assistant", None, tool_calls=[])]) == (
        "content of turn 2 is empty"
    )


# --- system turns ---------------------------------------------------------------------------------


def test_a_system_turn_stays_unless_something_else_is_asked_for():
    talk = tuple(turns_of([turn("system", "s"), turn("user", "u"), turn("assistant", "a")]))
    assert with_system(talk, "keep") == talk
    assert with_system(talk, "drop") == talk[1:]
    assert with_system(talk, "prepend") == (Message("user", "s\n\nu"), talk[2])
    assert with_system(talk[1:], "prepend") == talk[1:]
