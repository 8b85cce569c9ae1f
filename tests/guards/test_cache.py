"""Verdicts kept on disk: judged once, in any process, and never with a word of the text."""

import json
import multiprocessing
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import GuardError
from fedrai.guards.base import VerdictBatch
from fedrai.guards.cache import CHUNK, VerdictCache, conversation_key, judge
from fedrai.records import Message, Verdict

CANARY = "canary-7431"


class Counting:
    """Says 0.9 of texts with "bad" in them, 0.1 of others; keeps account of what it was asked."""

    def __init__(self, revision="1", name="counting", problems=None, stop_after=None):
        self.name, self.revision, self.thresholds = name, revision, {"strict": 0.5, "loose": 0.5}
        self.problems, self.stop_after, self.asked = problems or {}, stop_after, []

    def judge(self, conversations, on_progress=lambda _done, _of: None):
        verdicts = []
        for talk in conversations:
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(talk)
            verdicts.append(self.say(talk))
            on_progress(len(verdicts), len(conversations))
        return VerdictBatch(
            tuple(verdicts), tokens=10 * len(verdicts), operations=2.0 * len(verdicts)
        )

    def say(self, talk):
        text = talk[-1].content
        if problem := self.problems.get(text):
            return Verdict(None, "inner@0", problem=problem)
        if "bad" in text:
            return Verdict(0.9, "inner@0", ("fraud", "cyber"))
        return Verdict(0.1, "inner@0")


def talk(text: str):
    return (Message("user", text), Message("assistant", f"on {text}"))


def talks(count: int):
    return [talk(f"{'bad' if i % 3 == 0 else 'fine'} {i}") for i in range(count)]


def the_file(folder):
    (file,) = folder.glob("*.jsonl")
    return file


# --- judging --------------------------------------------------------------------------------------


def test_what_is_known_is_not_judged_again(tmp_path):
    first, second = Counting(), Counting()
    before = judge(first, talks(5), VerdictCache(tmp_path))
    after = judge(second, talks(7), VerdictCache(tmp_path))
    assert len(first.asked) == 5
    assert second.asked == talks(7)[5:]
    assert after.verdicts[:5] == before.verdicts
    assert (before.tokens, before.operations) == (50, 10.0)
    assert (after.tokens, after.operations) == (20, 4.0)
    assert [v.probability for v in after.verdicts] == [0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.9]
    assert after.verdicts[3] == Verdict(0.9, "counting@1", ("fraud", "cyber"))


def test_equal_conversations_are_judged_once_and_answered_in_order():
    guard = Counting()
    rows = [talk("bad"), talk("b"), talk("bad"), talk("b"), talk("bad")]
    judged = judge(guard, rows, None)
    assert guard.asked == [talk("bad"), talk("b")]
    assert [v.probability for v in judged.verdicts] == [0.9, 0.1, 0.9, 0.1, 0.9]


def test_without_a_cache_the_verdicts_are_the_same(tmp_path):
    rows = talks(9)
    kept = judge(Counting(), rows, VerdictCache(tmp_path)).verdicts
    assert judge(Counting(), rows, None).verdicts == kept
    assert judge(Counting(), rows, VerdictCache(tmp_path)).verdicts == kept


@pytest.mark.parametrize("other", [{"revision": "2"}, {"name": "another"}, {"name": "a/../b c"}])
def test_another_guard_or_revision_judges_for_itself(tmp_path, other):
    judge(Counting(), talks(3), VerdictCache(tmp_path))
    guard = Counting(**other)
    judge(guard, talks(3), VerdictCache(tmp_path))
    assert len(guard.asked) == 3
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert {p.parent for p in tmp_path.rglob("*")} == {tmp_path}


def test_verdicts_of_an_earlier_form_are_judged_anew(tmp_path, monkeypatch):
    """A guard that judged long texts in part has the same revision as one that does not."""
    before = Counting()
    monkeypatch.setattr("fedrai.guards.cache.CACHE_FORMAT", 1)
    judge(before, talks(2), VerdictCache(tmp_path))
    monkeypatch.undo()
    after = Counting()
    judge(after, talks(2), VerdictCache(tmp_path))
    judge(after, talks(2), VerdictCache(tmp_path))
    assert (len(before.asked), len(after.asked)) == (2, 2)


def test_a_stop_loses_at_most_the_chunk_in_work(tmp_path):
    rows = talks(CHUNK + 50)
    broken = Counting(stop_after=CHUNK + 20)
    with pytest.raises(KeyboardInterrupt):
        judge(broken, rows, VerdictCache(tmp_path))
    again = Counting()
    judged = judge(again, rows, VerdictCache(tmp_path))
    assert again.asked == rows[CHUNK:]
    assert judged.verdicts == judge(Counting(), rows, None).verdicts


def test_problems_that_may_pass_are_not_kept(tmp_path):
    names = ("empty", "unparsed", "no-answer", "failed")
    rows = [talk(name) for name in names]
    problems = {f"on {name}": name for name in names}
    judged = judge(Counting(problems=problems), rows, VerdictCache(tmp_path))
    assert [v.problem for v in judged.verdicts] == list(names)
    again = Counting()
    judged = judge(again, rows, VerdictCache(tmp_path))
    assert again.asked == rows[2:]
    assert [v.problem for v in judged.verdicts] == ["empty", "unparsed", None, None]


def test_progress_counts_what_was_known_and_reaches_the_end(tmp_path):
    judge(Counting(), talks(3), VerdictCache(tmp_path))
    seen = []
    judge(Counting(), talks(6) + talks(2), VerdictCache(tmp_path), lambda *step: seen.append(step))
    assert seen == [(3, 6), (4, 6), (5, 6), (6, 6), (6, 6)]


def test_nothing_to_judge_is_nothing(tmp_path):
    assert judge(Counting(), [], VerdictCache(tmp_path)) == VerdictBatch(())


def test_a_guard_that_loses_a_row_is_an_error(tmp_path):
    guard = Counting()
    guard.judge = lambda conversations, _progress: VerdictBatch((Verdict(0.5, "x@1"),))
    with pytest.raises(GuardError, match="1 verdicts for 2 conversations"):
        judge(guard, talks(2), VerdictCache(tmp_path))


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_the_hmac_of_the_canonical_json():
    import hashlib
    import hmac

    body = rb'[["user","a \"b\" \u00e9"],["assistant","\ud800"]]'
    expected = hmac.new(b"salt", body, hashlib.sha256).hexdigest()
    spoken = (Message("user", 'a "b" é'), Message("assistant", "\ud800"))
    assert conversation_key(b"salt", spoken) == expected


messages = st.builds(
    Message, st.sampled_from(["system", "user", "assistant"]), st.text(st.characters())
)


@given(st.lists(messages, max_size=3), st.lists(messages, max_size=3))
def test_keys_tell_conversations_apart(one, two):
    same = conversation_key(b"s", tuple(one)) == conversation_key(b"s", tuple(two))
    assert same is (one == two)


def test_another_folder_has_another_salt_and_other_keys(tmp_path):
    one, two = VerdictCache(tmp_path / "one"), VerdictCache(tmp_path / "two")
    assert one.key(talk("a")) != two.key(talk("a"))
    assert VerdictCache(tmp_path / "one").key(talk("a")) == one.key(talk("a"))
    assert len((tmp_path / "one" / "salt").read_bytes()) == 32


# --- files ----------------------------------------------------------------------------------------


def test_files_are_the_owners_alone_and_hold_no_text(tmp_path):
    folder = tmp_path / "verdicts"
    judge(Counting(), [talk(f"bad {CANARY}"), talk(CANARY)], VerdictCache(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (folder / "salt", the_file(folder)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert all(CANARY.encode() not in f.read_bytes() for f in folder.iterdir())
    entries = [json.loads(line) for line in the_file(folder).read_text().splitlines()]
    assert [set(e) for e in entries] == [{"key", "p", "categories", "problem"}] * 2
    assert [(e["p"], e["categories"]) for e in entries] == [(0.9, ["fraud", "cyber"]), (0.1, [])]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_passed_over_and_then_ended(tmp_path, cut):
    judge(Counting(), talks(3), VerdictCache(tmp_path))
    body = the_file(tmp_path).read_bytes()
    the_file(tmp_path).write_bytes(body[:-cut])
    again = Counting()
    judge(again, talks(4), VerdictCache(tmp_path))
    assert again.asked == talks(4)[2:]
    third = Counting()
    judge(third, talks(4), VerdictCache(tmp_path))
    assert third.asked == []


@pytest.mark.parametrize("cut", range(0, 330, 7))
def test_wherever_the_file_ends_every_verdict_is_right(tmp_path, cut):
    judge(Counting(), talks(3), VerdictCache(tmp_path))
    body = the_file(tmp_path).read_bytes()
    the_file(tmp_path).write_bytes(body[:cut])
    judged = judge(Counting(), talks(3), VerdictCache(tmp_path))
    assert judged.verdicts == judge(Counting(), talks(3), None).verdicts


def test_damaged_lines_are_passed_over(tmp_path):
    cache = VerdictCache(tmp_path)
    judge(Counting(), talks(1), cache)
    key = cache.key(talks(1)[0])
    good = {"key": key, "p": 0.9, "categories": [], "problem": None}
    bad = [
        {**good, "p": 2},
        {**good, "p": True},
        {**good, "p": "0.9"},
        {**good, "p": float("nan")},
        {**good, "p": None},
        {**good, "p": None, "problem": "made up"},
        {**good, "problem": "empty"},
        {**good, "categories": [1]},
        {**good, "categories": None},
        {**good, "key": 3},
        {"key": key},
        [],
        7,
    ]
    lines = [json.dumps(entry).encode() for entry in bad]
    lines += [b"\xff\xfe", b"{", b"[" * 4000, b"", b'{"key": "' + b"a" * 100_000 + b'"}']
    the_file(tmp_path).write_bytes(b"\n".join(lines) + b"\n")
    assert VerdictCache(tmp_path).find(Counting(), [key]) == {}
    with the_file(tmp_path).open("ab") as file:
        file.write(json.dumps(good).encode() + b"\n")
    assert VerdictCache(tmp_path).find(Counting(), [key]) == {key: Verdict(0.9, "counting@1")}


def test_the_tail_of_an_overlong_line_is_no_line(tmp_path):
    cache = VerdictCache(tmp_path)
    judge(Counting(), talks(1), cache)
    line = the_file(tmp_path).read_bytes()
    the_file(tmp_path).write_bytes(b" " * 4096 * 2 + line)
    assert cache.find(Counting(), [cache.key(talks(1)[0])]) == {}


@pytest.mark.parametrize("salt", [b"", b"short", b"x" * 33])
def test_a_damaged_salt_is_made_anew(tmp_path, salt):
    judge(Counting(), talks(2), VerdictCache(tmp_path))
    (tmp_path / "salt").write_bytes(salt)
    guard = Counting()
    judge(guard, talks(2), VerdictCache(tmp_path))
    assert len(guard.asked) == 2
    assert len((tmp_path / "salt").read_bytes()) == 32


def work(folder, start: int) -> None:
    rows = [talk(f"bad {i}") for i in range(start, start + 300)]
    for i in range(0, 300, 10):
        judge(Counting(), rows[: i + 10], VerdictCache(folder))


def test_two_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(tmp_path, start)) for start in (0, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    guard = Counting()
    rows = [talk(f"bad {i}") for i in range(500)]
    judged = judge(guard, rows, VerdictCache(tmp_path))
    assert guard.asked == []
    assert {v.probability for v in judged.verdicts} == {0.9}
    lines = the_file(tmp_path).read_text().splitlines()
    assert all(json.loads(line)["p"] == 0.9 for line in lines)


# --- a disk that does not play along --------------------------------------------------------------


def test_a_full_disk_is_said_once_and_loses_no_verdict(tmp_path):
    said = []
    cache = VerdictCache(tmp_path, said.append)
    judge(Counting(), talks(1), cache)
    the_file(tmp_path).unlink()
    cache._file(Counting()).symlink_to("/dev/full")
    rows = talks(2 * CHUNK + 3)
    cache.find = lambda _guard, _keys: {}  # /dev/full reads as endless zeros
    judged = judge(Counting(), rows, cache)
    assert judged.verdicts == judge(Counting(), rows, None).verdicts
    assert said == [f"verdicts are not cached in {tmp_path}: No space left on device"]
    assert cache.problem == said[0]


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    cache = VerdictCache(tmp_path / "file" / "verdicts", said.append)
    judged = judge(Counting(), talks(3), cache)
    assert [v.probability for v in judged.verdicts] == [0.9, 0.1, 0.1]
    assert len(said) == 1
    assert "verdicts are not cached" in said[0]


def test_a_read_only_folder_still_gives_what_it_knows(tmp_path, monkeypatch):
    judge(Counting(), talks(2), VerdictCache(tmp_path))

    def refuse(*_args, **_options):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("fedrai.guards.cache.FileLock", refuse)
    said, guard = [], Counting()
    judge(guard, talks(4), VerdictCache(tmp_path, said.append))
    assert guard.asked == talks(4)[2:]
    assert said == [f"verdicts are not cached in {tmp_path}: Read-only file system"]
