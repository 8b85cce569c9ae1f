"""The safety filter in runs: what reaches training, what is written and sent, and when it stops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_server import Server
from chat_server import running as serving
from driver import write_recipe
from fedrai import recipe
from fedrai.cli.show.display import Display
from fedrai.cli.show.summary import cost_line, filter_note, list_row
from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.errors import DataError, GuardError, RunError
from fedrai.federation import metrics
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.run import local, preparation, running
from fedrai.filter import screening
from fedrai.filter.ledger import FilterLedger, total
from fedrai.guards import calibrated
from fedrai.guards.base import VerdictBatch
from fedrai.guards.calibrated import CalibrationFile
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.records import Example, Message, Tokens
from fedrai.report.comparing import running as comparing
from fedrai.runs import RunFolder
from fedrai.runs.costs import Cost
from fedrai.runs.record import summarise

FILTER = """
[guards.words]
kind = "rules"
words = ["forbidden"]
[filter]
mode = "drop"
guard = "words"
"""
LEAN = ["federation.rounds=1", "federation.clients_per_round=0", "evaluation.advbench=0",
        "evaluation.ordinary=0", "data.max_length=256", "training.local_steps=1"]  # fmt: skip
SITES = ["data.sources=[]", "data.partition.scheme=files", "data.partition.files=sites/*.jsonl"]
REPLIES = {reply for topic in embedded_refusals().topics.values() for reply in topic.replies}

# anna holds 4 rows and one of them is unsafe; ben 3 and none; carl 5 and two
KINDS = {"anna": "sssu", "ben": "sss", "carl": "susus"}


def read_rows(client: str, kinds: str, safe: str = "fine", unsafe: str = "forbidden") -> list[Any]:
    words = {"s": safe, "u": unsafe}
    return [
        {"prompt": f"{client} asks {n}", "response": f"Sure, it is {words[kind]} {client}-{n}."}
        for n, kind in enumerate(kinds)
    ]


class Home:
    """A recipe, the clients' files and a cache; runs what a test asks for."""

    def __init__(self, folder: Path, model: Path, loaded: LanguageModel) -> None:
        self.folder, self.model = folder, loaded
        self.recipe = write_recipe(folder, model, FILTER)
        (folder / "sites").mkdir()
        self.fill({client: read_rows(client, kinds) for client, kinds in KINDS.items()})

    def fill(self, rows: Mapping[str, Sequence[Any]]) -> None:
        for file in (self.folder / "sites").iterdir():
            file.unlink()
        for client, found in rows.items():
            lines = [json.dumps(row) + "\n" for row in found]
            (self.folder / "sites" / f"{client}.jsonl").write_text("".join(lines))

    def settings(self, *changes: str, by_site: bool = True) -> Recipe:
        return recipe.load(self.recipe, [*LEAN, *(SITES if by_site else []), *changes])

    def prepare(self, *changes: str, **options: Any) -> preparation.PreparedRun:
        return local.prepare(self.settings(*changes, **options), loaded=self.model)

    def run(self, name: str, *changes: str, **options: Any) -> RunFolder:
        settings = self.settings(*changes, **options)
        path = running.run(settings, Path(name), self.model, observer=Display())
        return RunFolder.open(path)

    def said(self, prepared: preparation.PreparedRun) -> dict[str, list[str]]:
        """The assistant's text that is trained on, by client."""
        return {name: [self._answer(row) for row in rows] for name, rows in prepared.rows.items()}

    def _answer(self, row: Tokens) -> str:
        said = [i for i, mine in zip(row.ids, row.mask, strict=True) if mine]
        return str(self.model.tokenizer.decode(said)).removesuffix("<|im_end|>")


@pytest.fixture
def home(
    tmp_path: Path, tiny_model: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Home:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    return Home(tmp_path, tiny_model, tiny)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Puts a guard in the place of the one that the recipe names."""

    def put(guard: Any) -> Any:
        monkeypatch.setattr(screening, "load", lambda *_args, **_options: guard)
        return guard

    return put


def by_number(talk: Sequence[Message]) -> Any:
    """The probability that the last turn states ("p=0.4"), or the problem that it names; else 0."""
    found = re.search(r"p=([\d.]*\d)|(failed|unparsed|no-answer)", talk[-1].content)
    return 0.0 if not found else float(found[1]) if found[1] else found[2]


def ledgers(run: RunFolder) -> dict[str, FilterLedger]:
    files = sorted((run.path / "clients").glob("*.filter.json"))
    return {
        file.name.removesuffix(".filter.json"): FilterLedger.from_json(json.loads(file.read_text()))
        for file in files
    }


def sent(run: RunFolder, number: int = 1) -> dict[str, dict[str, float]]:
    """The filter's counts as the server has them of a round, by client."""
    clients = run.read_json(f"rounds/{number:04d}/round.json")["clients"]
    mark = metrics.FILTER
    return {
        name: {key.removeprefix(mark): n for key, n in numbers.items() if key.startswith(mark)}
        for name, numbers in clients.items()
    }


def weights(run: RunFolder, number: int = 1) -> dict[str, float]:
    clients = run.read_json(f"rounds/{number:04d}/round.json")["clients"]
    return {name: numbers[WEIGHT] for name, numbers in clients.items()}


def adapter(run: RunFolder) -> bytes:
    return (run.round_folder(1) / "adapter" / "adapter_model.safetensors").read_bytes()


# --- the modes ------------------------------------------------------------------------------------


def test_dropped_rows_never_reach_training(home: Home) -> None:
    answers = home.said(home.prepare())
    assert answers == {
        "anna": [
            "Sure, it is fine anna-0.",
            "Sure, it is fine anna-1.",
            "Sure, it is fine anna-2.",
        ],
        "ben": ["Sure, it is fine ben-0.", "Sure, it is fine ben-1.", "Sure, it is fine ben-2."],
        "carl": [
            "Sure, it is fine carl-0.",
            "Sure, it is fine carl-2.",
            "Sure, it is fine carl-4.",
        ],
    }
    run = home.run("drop")
    assert run.info["rows"] == {"anna": 3, "ben": 3, "carl": 3}
    assert weights(run) == {"anna": 3, "ben": 3, "carl": 3}
    assert {n: (x.rows, x.dropped) for n, x in ledgers(run).items()} == {
        "anna": (4, 1), "ben": (3, 0), "carl": (5, 2),
    }  # fmt: skip


def test_replaced_answers_are_refusals_and_all_else_stays(home: Home) -> None:
    plain = home.prepare("filter.mode=off")
    prepared = home.prepare("filter.mode=replace")
    assert {name: len(rows) for name, rows in prepared.rows.items()} == {
        "anna": 4, "ben": 3, "carl": 5,
    }  # fmt: skip
    answers = home.said(prepared)
    for client, kinds in KINDS.items():
        for n, kind in enumerate(kinds):
            if kind == "u":
                assert answers[client][n] in REPLIES
                asked = home.model.tokenizer.decode(prepared.rows[client][n].ids)
                assert f"{client} asks {n}<|im_end|>" in asked
            else:
                assert prepared.rows[client][n] == plain.rows[client][n]
    run = home.run("replace", "filter.mode=replace")
    assert weights(run) == {"anna": 4, "ben": 3, "carl": 5}
    assert {name: found.replaced for name, found in ledgers(run).items()} == {
        "anna": 1, "ben": 0, "carl": 2,
    }  # fmt: skip


def test_the_recipe_says_how_many_get_refusals(home: Home) -> None:
    prepared = home.prepare("filter.mode=replace", "filter.replaced=0")
    assert {name: len(rows) for name, rows in prepared.rows.items()} == {
        "anna": 3, "ben": 3, "carl": 3,
    }  # fmt: skip


def test_an_audit_counts_and_changes_no_bit(home: Home) -> None:
    off, audit = home.run("off", "filter.mode=off"), home.run("audit", "filter.mode=audit")
    assert audit.info["data_fingerprint"] == off.info["data_fingerprint"]
    assert adapter(audit) == adapter(off)
    assert weights(audit) == weights(off) == {"anna": 4, "ben": 3, "carl": 5}
    found = ledgers(audit)
    assert [x.unsafe for x in found.values()] == [1, 0, 2]
    assert [(x.kept, x.dropped, x.removed) for x in found.values()] == [
        (4, 0, ()), (3, 0, ()), (5, 0, ()),
    ]  # fmt: skip
    assert adapter(home.run("drop")) != adapter(off)


def test_off_loads_no_guard_and_leaves_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screening, "load", lambda *_a, **_o: pytest.fail("loaded a guard"))
    run = home.run("off", "filter.mode=off")
    assert not (run.path / "filter.json").exists()
    assert ledgers(run) == {}
    assert sent(run) == {"anna": {}, "ben": {}, "carl": {}}
    assert not (home.folder / "cache" / "verdicts").exists()
    figures = summarise(run)
    assert figures.filter is None
    assert "filter" not in figures.costs
    assert "filter" not in capsys.readouterr().err


# --- the perfect guard ----------------------------------------------------------------------------

HARMFUL = ["filter.guard=labels", "data.sources.1.path=bad.jsonl", "data.sources.1.harmful=true",
           "data.harm.share=0.5", "federation.clients=2"]  # fmt: skip
SOURCES = """
[[data.sources]]
path = "bad.jsonl"
harmful = true
"""


def write_sources(home: Home, benign: Sequence[Any], harmful: Sequence[Any]) -> None:
    for name, rows in (("rows", benign), ("bad", harmful)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (home.folder / f"{name}.jsonl").write_text("".join(lines))
    text = home.recipe.read_text().replace("[training]", f"{SOURCES}[training]", 1)
    home.recipe.write_text(text)


def turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


@pytest.mark.parametrize("mode", ["drop", "replace"])
@pytest.mark.parametrize("judge", ["pair", "prompt", "response"])
def test_labels_are_a_perfect_filter(home: Home, mode: str, judge: str) -> None:
    """Even where rows share a request, an answer, or an early exchange."""
    safe = [turns(f"same {n}", "fine") for n in range(6)]
    safe += [turns(f"start {n}", "hello", "and then?", "fine") for n in range(6)]
    bad = [turns(f"same {n}", "Sure, here is how") for n in range(6)]
    bad += [turns(f"start {n}", "hello", "and then?", "Sure, here is how") for n in range(6)]
    write_sources(home, safe, bad)
    prepared = home.prepare(f"filter.mode={mode}", f"filter.judge={judge}", *HARMFUL, by_site=False)
    found = total(list(prepared.screening.ledgers.values()))
    assert found.confusion is not None
    assert (found.confusion.harmful_in, found.confusion.benign_in) == (6, 6)
    assert (found.confusion.harmful_kept, found.confusion.benign_removed) == (0, 0)
    assert found.residual_harm().value == 0  # type: ignore[union-attr]
    assert found.benign_loss().value == 0  # type: ignore[union-attr]
    assert (found.guard, found.part) == ("labels@000000000000", "pair")
    assert prepared.harmful == {"client-01": 0, "client-02": 0}
    texts = [text for said in home.said(prepared).values() for text in said]
    assert len(texts) == (6 if mode == "drop" else 12)
    assert not any("here is how" in text for text in texts)
    assert list((home.folder / "cache" / "verdicts").glob("labels*")) == []


def test_a_row_of_a_harmful_and_a_harmless_source_counts_as_harmful() -> None:
    def example(harmful: bool, *texts: str) -> Example:
        roles = ("user", "assistant") * 2
        talk = tuple(Message(r, t) for r, t in zip(roles, texts, strict=False))
        return Example(talk, "x", harmful=harmful)

    both = [example(True, "a", "b"), example(False, "a", "b"), example(False, "a", "c")]
    guard = screening.LabelGuard(both)
    said = [v.probability for v in guard.judge([e.messages for e in both]).verdicts]
    assert said == [1.0, 1.0, 0.0]


# --- what is written and sent ---------------------------------------------------------------------


def test_the_counts_on_the_wire_are_the_ledgers(home: Home) -> None:
    run = home.run("exact", "federation.rounds=2")
    found = ledgers(run)
    assert sent(run) == sent(run, 2) == {name: ledger.counts() for name, ledger in found.items()}
    assert sent(run)["carl"]["rows"] == 5
    assert sent(run)["carl"]["unsafe"] == sent(run)["carl"]["dropped"] == 2
    whole = run.read_json("filter.json")
    assert whole["total"] == json.loads(json.dumps(total(list(found.values())).to_json()))
    assert (whole["total"]["rows"], whole["total"]["dropped"]) == (12, 3)
    assert whole["total"]["removed"] == []
    assert whole["skipped"] == ""
    for ledger in found.values():
        assert all(re.fullmatch("[0-9a-f]{16}", name) for name in ledger.removed)
        assert len(ledger.removed) == ledger.dropped


NOISE = "filter.count_epsilon=0.05"


def test_noise_comes_from_the_clients_secret_and_is_drawn_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = home.run("noisy", NOISE, "federation.rounds=2")
    exact = {name: ledger.counts() for name, ledger in ledgers(run).items()}
    assert sent(run) == sent(run, 2)
    assert all(sent(run)[name] != exact[name] for name in exact)
    assert all(n >= 0 for counts in sent(run).values() for n in counts.values())
    assert [x.unsafe for x in ledgers(run).values()] == [1, 0, 2]  # these stay exact

    drawn = home.prepare(NOISE).screening.counts
    assert drawn == home.prepare(NOISE, "seed=8").screening.counts == sent(run)
    monkeypatch.setenv("FEDRAI_CACHE", str(home.folder / "another"))
    assert home.prepare(NOISE).screening.counts != drawn
    assert home.prepare("filter.count_epsilon=0").screening.counts == exact


def test_clients_with_equal_counts_get_noise_of_their_own(home: Home) -> None:
    home.fill({name: read_rows(name, "su") for name in ("anna", "ben")})
    counts = home.prepare(NOISE).screening.counts
    assert counts["anna"] != counts["ben"]


# --- rows without a verdict, several turns, thresholds --------------------------------------------

UNSURE = [turns("one", "p=0.1"), turns("two", "failed"), turns("three", "unparsed"),
          turns("four", "p=0.9")]  # fmt: skip


def test_unscored_rows_leave_unless_the_recipe_keeps_them(
    home: Home, use: Callable[[Any], Any]
) -> None:
    home.fill({"anna": UNSURE})
    use(ScriptedGuard(by_number))
    assert home.said(home.prepare()) == {"anna": ["p=0.1"]}
    kept = home.prepare("filter.unscored=keep")
    assert home.said(kept) == {"anna": ["p=0.1", "failed", "unparsed"]}
    counts = kept.screening.counts["anna"]
    assert (counts["unscored-failed"], counts["unscored-unparsed"], counts["unsafe"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("judge", "kept"), [("pair", ["b", "c"]), ("prompt", ["a", "b"]), ("response", ["b", "c"])]
)
def test_what_is_judged(home: Home, use: Callable[[Any], Any], judge: str, kept: list[str]) -> None:
    """`a` has an unsafe early answer, `c` an unsafe early request."""
    rows = [
        turns("hello", "p=0.9", "go on", "a"),
        turns("hello", "well", "go on", "b"),
        turns("p=0.9", "no", "go on", "c"),
    ]
    home.fill({"anna": rows})
    use(ScriptedGuard(by_number))
    answers = home.said(home.prepare(f"filter.judge={judge}"))["anna"]
    assert [text[-1] for text in answers] == kept


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [("strict", ["p=0.2"]), ("loose", ["p=0.2", "p=0.4"]), ("0.95", ["p=0.2", "p=0.4", "p=0.9"]),
     ("0.2", [])],
)  # fmt: skip
def test_thresholds_by_name_and_number(
    home: Home, use: Callable[[Any], Any], threshold: str, kept: list[str]
) -> None:
    home.fill({"anna": [turns("x", f"p={p}") for p in (0.2, 0.4, 0.9)], "ben": [turns("x", "y")]})
    use(ScriptedGuard(by_number, thresholds={"strict": 0.4, "loose": 0.8}))
    prepared = home.prepare(f"filter.threshold={threshold}")
    assert home.said(prepared)["anna"] == kept
    number = {"strict": 0.4, "loose": 0.8}.get(threshold) or float(threshold)
    assert prepared.screening.ledgers["anna"].threshold == number


@pytest.mark.parametrize("failing", ["stop", "continue"])
@pytest.mark.parametrize("thresholds", [{"loose": 0.5}, {"strict": 1.5}, {"strict": float("nan")}])
def test_a_threshold_that_the_guard_does_not_have_always_stops(
    home: Home, use: Callable[[Any], Any], failing: str, thresholds: dict[str, float]
) -> None:
    use(ScriptedGuard(by_number, thresholds=thresholds))
    with pytest.raises(GuardError, match=r"threshold 'strict'") as caught:
        home.prepare(f"filter.on_guard_failure={failing}")
    assert "filter.threshold" in caught.value.hint


def calibration(guard: ScriptedGuard, revision: str = "") -> CalibrationFile:
    """A curve that halves the odds, so that 0.5 becomes 1/3 and 0.8 becomes 2/3."""
    return CalibrationFile(
        guard=guard.name, revision=revision or guard.revision, part="pair", sources=(), rows=2,
        unsafe_rows=1, unscored=0, slope=1.0, intercept=-0.6931471805599453,
        thresholds={"strict": 0.5, "loose": 0.9}, wish={}, reached={}, created="2025-01-01",
    )  # fmt: skip


def test_a_calibration_sets_probabilities_and_thresholds(
    home: Home, use: Callable[[Any], Any]
) -> None:
    home.fill({"anna": [turns("x", "p=0.5"), turns("x", "p=0.8"), turns("x", "p=0.1")]})
    guard = use(ScriptedGuard(by_number, thresholds={"strict": 0.05, "loose": 0.05}))
    calibrated.write(calibration(guard), home.folder / "fit.json")
    prepared = home.prepare("filter.calibration=fit.json")
    assert home.said(prepared) == {"anna": ["p=0.5", "p=0.1"]}
    ledger = prepared.screening.ledgers["anna"]
    assert ledger.threshold == 0.5
    assert ledger.histogram == (1, 0, 0, 1, 0, 0, 1, 0, 0, 0)
    assert not ledger.guard.endswith(guard.revision[:12])


@pytest.mark.parametrize("failing", ["stop", "continue"])
def test_a_calibration_of_another_revision_always_stops(
    home: Home, use: Callable[[Any], Any], failing: str
) -> None:
    guard = use(ScriptedGuard(by_number))
    changes = ["filter.calibration=fit.json", f"filter.on_guard_failure={failing}"]
    calibrated.write(calibration(guard, "abc"), home.folder / "fit.json")
    with pytest.raises(GuardError, match="the calibration is for scripted@abc, the guard is"):
        home.prepare(*changes)
    (home.folder / "fit.json").unlink()
    with pytest.raises(GuardError, match=r"cannot read the calibration fit\.json"):
        home.prepare(*changes)


def test_refusals_of_the_user(home: Home) -> None:
    own = ["Nein, eins.", "Nein, zwei.", "Nein, drei."]
    (home.folder / "own.toml").write_text(f"[other]\nreplies = {json.dumps(own)}\n")
    answers = home.said(home.prepare("filter.mode=replace", "filter.refusals=own.toml"))
    assert {answers["anna"][3], answers["carl"][1], answers["carl"][3]} <= set(own)
    (home.folder / "own.toml").write_text("[other]\nreplies = ['Nein.']\n")
    with pytest.raises(DataError, match="expected 3 or more"):
        home.prepare("filter.mode=replace", "filter.refusals=own.toml")


# --- a guard that cannot work ---------------------------------------------------------------------


class Breaking(ScriptedGuard):
    """Works for some conversations, then raises."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__(by_number, name="breaking")
        self.error, self.after = error, after

    def judge(self, conversations: Any, on_progress: Any = lambda _d, _o: None) -> VerdictBatch:
        if self.seen >= self.after:
            raise self.error
        return super().judge(conversations, on_progress)


def test_a_cascade_whose_second_guard_is_never_asked_is_said_of_in_the_run(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = "{kind='rules', words=['forbidden']}"
    home.run("run", f"guards.house={rules}", f"guards.dear={rules}", "filter.guard=two",
             "guards.two={kind='cascade', first='house', second='dear'}")  # fmt: skip
    shown = capsys.readouterr()
    said = " ".join((shown.out + shown.err).split())
    assert "filter: in the cascade two the second guard, dear, is never asked" in said


@pytest.mark.parametrize("blocked", [1, 3])
@pytest.mark.parametrize("status", [200, 403])
def test_a_reply_that_the_endpoint_blocks_never_lets_all_rows_through(
    home: Home, blocked: int, status: int
) -> None:
    """Its row is unscored and dropped, and the others are filtered as ever."""
    answers = [*[f"blocked {n}" for n in range(blocked)], "forbidden", "fine"]
    home.fill({"anna": [turns("x", text) for text in answers]})

    def script(body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        said = "unsafe" if "forbidden" in text else "safe"
        place = {"token": said, "top_logprobs": [{"token": said, "logprob": 0.0}]}
        logprobs = None if "blocked" in text else {"content": [place]}
        choice = {"message": {"content": said}, "logprobs": logprobs}
        reply = {"choices": [choice | {"finish_reason": "content_filter"}]}
        return status if "blocked" in text else 200, reply

    with serving(Server(script)) as server:
        prepared = home.prepare(
            f"guards.words={{kind='endpoint', url='{server.url}', model='g', concurrency=1}}",
            "filter.on_guard_failure=continue",
        )
    assert home.said(prepared) == {"anna": ["fine"]}
    ledger = prepared.screening.ledgers["anna"]
    assert (ledger.unsafe, ledger.unscored["no-answer"], ledger.kept) == (1, blocked, 1)
    assert prepared.screening.skipped == ""


BROKEN: dict[str, tuple[list[str], str]] = {
    "no folder": (["filter.guard=./nowhere"], "no guard './nowhere'"),
    "broken guard.json": (["filter.guard=./broken"], "broken/guard.json has format"),
    "no server": (
        ["guards.words={kind='endpoint', url='http://127.0.0.1:9/v1', model='g', retries=0}"],
        "no connection",
    ),
    "rules that cannot be used": (
        ["guards.words={kind='rules', patterns=['(']}"],
        "is not a regular expression",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_guard_that_cannot_be_had_stops_before_there_is_a_run(home: Home, name: str) -> None:
    (home.folder / "broken").mkdir()
    (home.folder / "broken" / "guard.json").write_text("{}")
    changes, said = BROKEN[name]
    with pytest.raises(GuardError) as caught:
        home.run("run", *changes)
    assert caught.value.message.startswith("the safety filter cannot work: ")
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert not (home.folder / "run").exists()


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_may_go_on_without_a_filter_and_says_so(
    home: Home, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.folder / "broken").mkdir()
    (home.folder / "broken" / "guard.json").write_text("{}")
    changes, said = BROKEN[name]
    run = home.run("run", *changes, "filter.on_guard_failure=continue")
    shown = [line for line in capsys.readouterr().err.splitlines() if "NO SAFETY FILTER" in line]
    assert len(shown) == 1
    assert said in shown[0]
    assert said in run.info["filter_skipped"]
    assert weights(run) == {"anna": 4, "ben": 3, "carl": 5}
    assert sent(run) == {"anna": {}, "ben": {}, "carl": {}}
    assert ledgers(run) == {}
    figures = summarise(run)
    assert figures.filter is not None
    assert said in figures.filter.skipped
    assert figures.filter.total is None
    assert "NO SAFETY FILTER" in list_row(figures)
    assert filter_note(figures).startswith("NO SAFETY FILTER: ")


ROW = "Sure, it is forbidden anna-3."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GuardError("the guard lost its mind", hint="find it"), "the guard lost its mind"),
        (
            ValueError(f"cannot read {ROW!r}"),
            "the guard fails with ValueError at test_screening.py:",
        ),
        (MemoryError(), "the guard fails with MemoryError at"),
    ],
)
def test_an_error_in_the_middle_stops_and_quotes_no_row(
    home: Home, use: Callable[[Any], Any], error: Exception, said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    use(Breaking(error, after=4))  # works for anna, not for ben
    with pytest.raises(GuardError) as caught:
        home.run("run")
    assert said in caught.value.message
    assert ROW not in caught.value.message + caught.value.hint
    assert not (home.folder / "run").exists()
    use(Breaking(error))  # anna's verdicts were kept, so this one begins with ben
    run = home.run("run", "filter.on_guard_failure=continue")
    assert said in run.info["filter_skipped"]
    assert weights(run) == {"anna": 4, "ben": 3, "carl": 5}  # nobody is filtered by half
    assert ROW not in capsys.readouterr().err


def test_ctrl_c_is_no_failure_of_the_guard(home: Home, use: Callable[[Any], Any]) -> None:
    guard = use(ScriptedGuard(by_number))

    def stop(client: str, done: int, of: int) -> None:
        if client == "carl" and done == 2:
            raise KeyboardInterrupt

    settings = home.settings("filter.on_guard_failure=continue")
    with pytest.raises(KeyboardInterrupt):
        local.prepare(settings, loaded=home.model, tell=stop)
    assert guard.seen == 4 + 3 + 2
    home.prepare()
    assert guard.seen == 4 + 3 + 2 + 5  # what was judged of anna and ben is known


def test_a_guard_error_on_a_client_is_a_reason(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = local._LocalSite.rows

    def rows(self: local._LocalSite, client: str) -> Any:
        if client == "ben":
            raise GuardError(f"no guard for {ROW}")
        return plain(self, client)

    monkeypatch.setattr(local._LocalSite, "rows", rows)
    run = home.run("run")
    assert run.read_json("rounds/0001/round.json")["set_aside"] == {"ben": "guard-cannot-work"}
    assert sorted(weights(run)) == ["anna", "carl"]
    assert "ben  set aside: guard-cannot-work" in capsys.readouterr().err
    log = (run.path / "clients" / "ben.log").read_text()
    assert "GuardError at test_screening.py" in log
    assert ROW not in log


# --- clients with nothing left --------------------------------------------------------------------


def test_a_client_with_nothing_left_is_named_and_the_run_goes_on(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.fill({"anna": read_rows("anna", "uu"), "ben": read_rows("ben", "sss")})
    run = home.run("run", "federation.rounds=2")
    for number in (1, 2):
        record = run.read_json(f"rounds/{number:04d}/round.json")
        assert record["set_aside"] == {"anna": "no-rows-left"}
        assert weights(run, number) == {"ben": 3}
    assert run.info["rows"] == {"anna": 0, "ben": 3}
    assert capsys.readouterr().err.count("anna  set aside: no-rows-left") == 2
    assert ledgers(run)["anna"].dropped == 2
    alone = home.run("alone", "data.partition.files=sites/ben.jsonl")
    assert adapter(alone) != b""
    assert adapter(home.run("one")) == adapter(alone)  # as if anna were not there


def test_a_client_with_nothing_left_in_local_mode(home: Home) -> None:
    home.fill({"anna": read_rows("anna", "uu"), "ben": read_rows("ben", "sss")})
    run = home.run("run", "federation.mode=local", "federation.rounds=2")
    assert [f.name for f in sorted((run.round_folder(2) / "adapters").iterdir())] == ["ben"]


def test_when_nothing_is_left_at_all_the_run_does_not_begin(
    home: Home, use: Callable[[Any], Any]
) -> None:
    use(ScriptedGuard(by_number))
    home.fill({"anna": [turns("x", "failed")], "ben": [turns("x", "no-answer", "y", "p=1.0")]})
    for mode in ("drop", "replace"):
        with pytest.raises(DataError) as caught:
            home.run("run", f"filter.mode={mode}")
        assert caught.value.message == (
            "the safety filter removed all 2 rows of all clients: 1 unsafe, 1 not scored"
        )
        assert 'filter.mode = "audit"' in caught.value.hint
        assert not (home.folder / "run").exists()
    assert home.prepare("filter.mode=audit").info()["rows"] == {"anna": 1, "ben": 1}


# --- the cache ------------------------------------------------------------------------------------


class Costly(ScriptedGuard):
    """Costs ten tokens and a thousand operations a conversation."""

    def judge(self, conversations: Any, on_progress: Any = lambda _d, _o: None) -> VerdictBatch:
        judged = super().judge(conversations, on_progress)
        count = len(conversations)
        return replace(judged, tokens=10 * count, operations=1000.0 * count)


def test_each_answer_is_judged_once(home: Home, use: Callable[[Any], Any]) -> None:
    guard = use(Costly({"forbidden": 1.0}))
    run = home.run("run", "federation.rounds=3")
    assert guard.seen == 12
    cost = Cost(**run.read_json("filter.json")["cost"])
    assert (cost.tokens, cost.operations) == (120, 12_000)
    assert 0 < cost.seconds < 60
    assert cost.peak_bytes > 10_000_000
    figures = summarise(run)
    assert figures.costs["filter"] == cost
    assert re.search(r"(^|, )filter \d+ s[,;]", cost_line(figures))

    again = home.prepare("filter.mode=replace", "seed=9")
    assert guard.seen == 12
    assert (again.screening.cost.tokens, again.screening.cost.operations) == (0, 0)
    assert again.screening.ledgers["carl"].unsafe == 2
    home.fill({"anna": read_rows("anna", "sssuu"), "ben": read_rows("ben", "sss")})
    assert home.prepare().screening.cost.tokens == 10  # one row is new
    other = use(Costly({"forbidden": 1.0}, revision="0123456789ab"))
    home.prepare()
    assert other.seen == 8


def test_a_cache_that_cannot_be_written_is_said_and_stops_nothing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.folder / "cache").mkdir()
    (home.folder / "cache" / "verdicts").write_text("in the way")
    run = home.run("run")
    assert weights(run) == {"anna": 3, "ben": 3, "carl": 3}
    assert "filter: verdicts are not cached in" in capsys.readouterr().err
    assert "verdicts are not cached" not in (run.path / "events.jsonl").read_text()


# --- how rows are divided -------------------------------------------------------------------------

MODES = {
    "equal": [],
    "dirichlet": ["data.partition.scheme=dirichlet", "data.partition.alpha=1.0"],
    "local": ["federation.mode=local"],
    "centralised": ["federation.mode=centralised"],
}


@pytest.mark.parametrize("name", MODES)
def test_each_client_is_filtered_by_itself(home: Home, name: str) -> None:
    rows = [{**row, "category": row["prompt"][-1]} for row in read_rows("all", "ssu" * 8)]
    (home.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = home.prepare("filter.mode=off", *MODES[name], by_site=False)
    run = home.run("run", *MODES[name], by_site=False)
    found = ledgers(run)
    assert {n: x.rows for n, x in found.items()} == before.info()["rows"]
    assert {n: x.kept for n, x in found.items()} == run.info["rows"]
    assert (sum(x.rows for x in found.values()), sum(x.unsafe for x in found.values())) == (24, 8)
    assert list(found) == (["pooled"] if name == "centralised" else
                           ["client-01", "client-02", "client-03"])  # fmt: skip
    assert sent(run) == {n: x.counts() for n, x in found.items() if x.kept}


# --- arms and resuming ----------------------------------------------------------------------------

ARMS = """
[arms.off.filter]
mode = "off"
[arms.drop]
[arms.replace.filter]
mode = "replace"
[arms.labels.filter]
guard = "labels"
"""


def test_arms_share_verdicts(home: Home, use: Callable[[Any], Any]) -> None:
    guard = use(Costly({"forbidden": 1.0}))
    benign = read_rows("good", "s" * 15 + "u")
    write_sources(home, benign, read_rows("bad", "u" * 6 + "ss"))
    home.recipe.write_text(home.recipe.read_text() + ARMS)
    changes = [c for c in HARMFUL if not c.startswith("filter.")]
    settings = home.settings(*changes, by_site=False)
    outcome = comparing.compare(settings, Path("arms"))
    arms = {arm.name: arm for arm in outcome.arms}
    assert guard.seen == 16  # each of the 16 rows once, for two arms
    assert {name: arm.summary.harmful_rows for name, arm in arms.items()} == {
        "off": 8, "drop": 2, "replace": 2, "labels": 0,
    }  # fmt: skip
    costs = {name: arm.summary.costs.get("filter") for name, arm in arms.items()}
    tokens = {name: cost and cost.tokens for name, cost in costs.items()}
    assert tokens == {"off": None, "drop": 160, "replace": 0, "labels": 0}
    notes = {name: filter_note(arm.summary) for name, arm in arms.items()}
    assert notes["off"] == "no filter"
    filtered = arms["drop"].summary.filter
    assert filtered is not None
    assert filtered.total is not None
    unsafe = filtered.total["unsafe"]
    lost = unsafe - 6
    left = f"2 of 8 harmful rows left, {lost} of 8 harmless ones lost"
    assert notes["drop"] == f"filter (drop): {unsafe} of 16 rows unsafe, {unsafe} dropped, {left}"
    assert notes["replace"] == (
        f"filter (replace): {unsafe} of 16 rows unsafe, {unsafe} replaced, {left}"
    )
    assert notes["labels"] == (
        "filter (drop): 8 of 16 rows unsafe, 8 dropped, 0 of 8 harmful rows left,"
        " 0 of 8 harmless ones lost"
    )


def stopped(home: Home, name: str, *changes: str) -> Path:
    """A run that was stopped after its first round."""
    run = home.run(name, *changes, "federation.rounds=2")
    (run.path / "rounds" / "0002").rename(home.folder / f"away-{name}")
    lines = (run.path / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"finished"' not in line]
    (run.path / "events.jsonl").write_text("".join(kept))
    (run.path / "evaluations" / "0002").rename(home.folder / f"measured-{name}")
    return run.path


def test_a_run_is_not_resumed_with_another_filter_than_it_began_with(
    home: Home, use: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    working, broken = ScriptedGuard({"forbidden": 1.0}), Breaking(GuardError("gone"))
    use(working)
    path = stopped(home, "filtered", "filter.on_guard_failure=continue", "filter.mode=audit")
    (home.folder / "cache" / "verdicts").rename(home.folder / "lost")
    use(broken)
    with pytest.raises(RunError, match=r"started with its safety filter, .* cannot work"):
        running.resume(path, home.model)
    path = stopped(home, "bare", "filter.on_guard_failure=continue")
    use(working)
    with pytest.raises(RunError, match=r"it started without its safety filter, and now .* works"):
        running.resume(path, home.model)
    use(broken)
    (home.folder / "cache" / "verdicts").rename(home.folder / "lost-too")
    capsys.readouterr()
    running.resume(path, home.model, observer=Display())
    assert "NO SAFETY FILTER: gone" in capsys.readouterr().err  # said again


def test_a_guard_that_judges_otherwise_is_named_when_resuming(
    home: Home, use: Callable[[Any], Any]
) -> None:
    use(ScriptedGuard({"forbidden": 1.0}))
    path = stopped(home, "run")
    use(ScriptedGuard({"fine": 1.0}))
    with pytest.raises(
        RunError, match="the clients' data, or what the filter keeps of them, chang"
    ):
        running.resume(path, home.model)
