"""Training a guard: it learns a rule, the same way each time, and its figures are what they say."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedrai.errors import DataError, FedRAIError, GuardError, ModelError
from fedrai.evaluation.detection import detect
from fedrai.guards.kinds import trained
from fedrai.guards.kinds.framing import ANSWER, REQUEST, Framing, Piece
from fedrai.guards.training import loop
from fedrai.guards.training import rows as training_rows
from fedrai.guards.training.loop import TrainingRow, divide, read, train
from fedrai.guards.training.outcome import GuardTrainingOutcome
from fedrai.model import Lora, load_backbone
from fedrai.recipe.sections import GuardTraining
from fedrai.records import Message, TrainingStep
from tiny_guards import encoder, reply, request, rows, settings, text

FRAME = ("[CLS]", "[SEP]", "[SEP]")
CANARY = "canary-7f3a"


@dataclass(frozen=True)
class Case:
    settings: GuardTraining
    rows: list[TrainingRow]
    folder: Path
    done: GuardTrainingOutcome
    steps: list[TrainingStep]
    judged: list[tuple[int, int]]

    @property
    def aside(self) -> list[TrainingRow]:
        return divide(self.rows, self.settings)[1]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="module")
def make(
    bert: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Case]:
    """A trained guard on either base, once for all tests."""
    cases: dict[str, Case] = {}

    def case(kind: str) -> Case:
        if kind not in cases:
            recipe, some = settings(bert), rows(240)
            if kind == "llama":
                some = rows(300, pairs=False)
                recipe = settings(
                    tiny_model, max_length=96, alpha=64, learning_rate=2e-3, epochs=10
                )
            folder = tmp_path_factory.mktemp("trained") / kind
            steps: list[TrainingStep] = []
            judged: list[tuple[int, int]] = []
            done = train(recipe, some, folder, on_step=steps.append,
                         on_judged=lambda d, n: judged.append((d, n)))  # fmt: skip
            cases[kind] = Case(recipe, some, folder, done, steps, judged)
        return cases[kind]

    return case


@pytest.fixture(params=["bert", "llama"])
def case(request: pytest.FixtureRequest, make: Callable[[str], Case]) -> Case:
    return make(request.param)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / trained.WEIGHTS)


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- learning -------------------------------------------------------------------------------------


def test_a_rule_is_learnt(case):
    for kind, found in case.done.held_out.items():
        assert found.auprc > 0.97, kind
        assert found.counts.recall.value > 0.9, kind
    assert set(case.done.held_out) == {row_kind(row) for row in case.rows}


def row_kind(row: TrainingRow) -> str:
    return "prompt" if row.row == REQUEST else "pair"


def test_the_loss_falls_from_that_of_a_guess(case):
    losses = case.done.losses
    kept, _ = divide(case.rows, case.settings)
    assert len(losses) == int(case.settings.epochs * len(kept) / 16)
    unsafe_with_category = math.log(3)  # birds, lamps and boats
    assert math.log(2) - 1e-6 < losses[0] < math.log(2) + 0.1 * unsafe_with_category + 1e-6
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_steps_and_progress_are_told(case):
    steps = case.steps
    assert [s.step for s in steps] == list(range(1, len(steps) + 1))
    assert {s.steps for s in steps} == {len(steps)}
    assert [s.loss for s in steps] == list(case.done.losses)
    assert all(s.tokens > 0 and s.seconds > 0 for s in steps)
    assert case.judged[-1] == (len(case.aside), len(case.aside))


def test_the_same_seed_gives_the_same_bits(bert, tmp_path):
    recipe, some = settings(bert, epochs=2, dropout=0.2), rows(120)
    for name in ("one", "two"):
        torch.manual_seed(random.randrange(10**6))
        train(recipe, some, tmp_path / name)
    for file in (trained.CONFIG, trained.WEIGHTS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    train(settings(bert, epochs=2, dropout=0.2, seed=1), some, tmp_path / "three")
    assert not same(tmp_path / "one", tmp_path / "three")


def test_categories_are_learnt(bert, tmp_path):
    recipe, some = settings(bert, epochs=10, category_weight=1.0), rows(288, pairs=False)
    guard = train(recipe, some, tmp_path / "g").guard
    assert guard.config.categories == ("bird", "boat", "lamp")
    unsafe = [row for row in divide(some, recipe)[1] if row.bad]
    verdicts = guard.judge([row.conversation for row in unsafe]).verdicts
    right = [v.categories[:1] == (row.category,) for v, row in zip(verdicts, unsafe, strict=True)]
    assert len(right) > 40
    assert sum(right) > 0.7 * len(right)


def test_the_guard_in_memory_is_the_one_in_the_folder(case):
    again = trained.load(case.folder, dtype="float32", device="cpu")
    talks = [row.conversation for row in case.rows[:60]]
    assert again.judge(talks) == case.done.guard.judge(talks)
    assert again.revision == case.done.guard.revision
    assert again.config == case.done.guard.config
    assert again.thresholds == case.done.guard.thresholds


def test_a_guard_trained_in_bfloat16_is_the_one_in_the_folder(bert, tmp_path):
    recipe = settings(bert, dtype="bfloat16", epochs=3)
    done = train(recipe, rows(200), tmp_path / "g")
    again = trained.load(tmp_path / "g", dtype="bfloat16", device="cpu")
    talks = [row.conversation for row in rows(40)]
    assert again.judge(talks) == done.guard.judge(talks)
    assert sum(done.losses[-10:]) < sum(done.losses[:10])


# --- calibration ----------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_saved_guard_on_held_out_rows(case):
    guard = trained.load(case.folder, dtype="float32", device="cpu")
    said = guard.judge([row.conversation for row in case.aside]).verdicts
    chances = [v.probability for v in said]
    for kind, found in case.done.held_out.items():
        part = [i for i, row in enumerate(case.aside) if row_kind(row) == kind]
        strict = guard.thresholds["strict"]
        mine = detect([chances[i] for i in part], [case.aside[i].bad for i in part], strict)
        assert mine == found
    safe = [p for p, row in zip(chances, case.aside, strict=True) if not row.bad]
    unsafe = [p for p, row in zip(chances, case.aside, strict=True) if row.bad]
    for name, wish in (("strict", 0.1), ("loose", 0.05)):
        cut, reached = guard.thresholds[name], case.done.reached[name]
        alarms = sum(p >= cut for p in safe)
        asked = [p for p, row in zip(chances, case.aside, strict=True)
                 if row.row == REQUEST and not row.bad]  # fmt: skip
        assert sum(p >= cut for p in asked) <= wish * len(asked)  # requests set the thresholds
        assert (reached.false_positive_rate.successes, reached.value) == (alarms, cut)
        assert reached.recall.successes == sum(p >= cut for p in unsafe)
    assert guard.thresholds["strict"] <= guard.thresholds["loose"]


def test_probabilities_rise_with_the_log_odds_and_mean_what_they_say(case):
    guard = case.done.guard
    talks = [row.conversation for row in case.aside]
    head_scores = guard.head_scores(talks)
    for kind, curve in ((REQUEST, guard.config.prompt), (ANSWER, guard.config.pair)):
        part = [r for r in head_scores if r is not None and r.row == kind]
        pairs = sorted((r.odds, trained.chance(r.odds, curve)) for r in part)
        assert [p for _, p in pairs] == sorted(p for _, p in pairs)
    chances = [v.probability for v in guard.judge(talks).verdicts]
    unsafe = sum(row.bad for row in case.aside)
    assert sum(chances) == pytest.approx(unsafe, abs=0.05 * len(talks))


def test_a_kind_of_which_too_little_is_held_out_is_not_calibrated(bert, tmp_path):
    some = rows(200, pairs=False) + [row for row in rows(12) if row.row == ANSWER]
    done = train(settings(bert), some, tmp_path / "g")
    assert done.guard.config.pair == (1.0, 0.0)
    assert done.guard.config.prompt != (1.0, 0.0)
    card = (tmp_path / "g" / "README.md").read_text()
    assert "Not calibrated, since too few such rows were held out: pair." in card


# --- which rows count -----------------------------------------------------------------------------


def relabel(some: list[TrainingRow], which: Callable[[TrainingRow], bool]) -> list[TrainingRow]:
    """Rows with other labels and categories where `which` says so."""
    return [
        replace(row, unsafe=1 - row.unsafe, category="other") if which(row) else row for row in some
    ]


def test_held_out_rows_are_never_trained_on(bert, tmp_path):
    recipe, some = settings(bert, epochs=2, loose_fpr=0.1), rows(160)
    aside = divide(some, recipe)[1]
    few = {id(row) for row in aside[:8]}
    one = train(recipe, some, tmp_path / "one")
    two = train(recipe, relabel(some, lambda row: id(row) in few), tmp_path / "two")
    assert same(tmp_path / "one", tmp_path / "two")
    assert one.held_out != two.held_out


def test_a_source_of_weight_0_has_no_influence(bert, tmp_path):
    some = rows(160) + rows(40, source="noise")
    recipe = settings(bert, epochs=2, weights={"noise": 0}, strict_fpr=0.4, loose_fpr=0.3)
    train(recipe, some, tmp_path / "one")
    other = relabel(some, lambda row: row.source == "noise")
    done = train(recipe, other, tmp_path / "two")
    assert same(tmp_path / "one", tmp_path / "two")
    assert set(done.rows) == {""}
    assert done.guard.config.categories == ("bird", "boat", "lamp")


def test_a_heavy_source_counts_for_more(bert, tmp_path):
    some = [*rows(160, source="a"), *relabel(rows(160, source="b"), lambda _: True)]
    for heavy in "ab":
        light = {"a": "b", "b": "a"}[heavy]
        recipe = settings(bert, epochs=4, weights={heavy: 3, light: 0.05}, held_out=0.2,
                          strict_fpr=0.9, loose_fpr=0.8)  # fmt: skip
        kept = divide(some, recipe)[0]
        guard = trained_only(recipe, some, tmp_path / heavy)
        verdicts = [r.odds for r in guard.head_scores([row.conversation for row in kept])]
        right = [(o > 0) == row.bad for o, row in zip(verdicts, kept, strict=True)
                 if row.source == heavy]  # fmt: skip
        assert sum(right) > 0.9 * len(right)


def trained_only(recipe: GuardTraining, some: list[TrainingRow], folder: Path) -> Any:
    """The guard before its calibration, which contradictory rows do not allow."""
    caught: list[Any] = []

    def stop(_settings: Any, guard: Any, *_: Any) -> None:
        caught.append(guard)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "calibrate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, some, folder)
    return caught[0]


def test_a_request_stands_in_one_part_only():
    some = rows(200)
    loud = [Message("user", f" {row.conversation[0].content.upper()}\n") for row in some]
    twin = [replace(row, conversation=(ask,)) for row, ask in zip(some, loud, strict=True)]
    kept, aside = divide([*some, *twin], settings(Path("x")))
    asked = [{" ".join(row.conversation[0].content.lower().split()) for row in part}
             for part in (kept, aside)]  # fmt: skip
    assert not asked[0] & asked[1]
    assert 0.2 < len(aside) / 800 < 0.4
    assert len(kept) + len(aside) == 800


def test_the_division_does_not_depend_on_the_seed_but_the_order_does():
    some = rows(100)
    parts = [divide(some, settings(Path("x"), seed=seed)) for seed in (0, 1)]
    assert set(map(id, parts[0][1])) == set(map(id, parts[1][1]))
    assert parts[0][0] != parts[1][0]


def test_labels_that_say_little_are_not_measured_by():
    some = [replace(row, unsafe=0.6 if row.bad else row.unsafe) for row in rows(100)]
    kept, aside = divide(some, settings(Path("x")))
    assert {row.unsafe for row in aside} == {0.0}
    assert {row.unsafe for row in kept} == {0.0, 0.6}


def test_rows_for_development_are_held_out_and_no_others():
    some = rows(100)
    aside = [replace(row, development=True) for row in rows(40, source="other")]
    twins = [replace(row, source="twin", development=False) for row in aside]
    kept, held_out = divide([*some, *twins, *aside], settings(Path("x"), held_out=0.9))
    assert sorted(map(id, held_out)) == sorted(map(id, aside))
    asked = {row.conversation[0].content for row in aside}
    left = [row for row in some if row.conversation[0].content not in asked]
    assert sorted(map(id, kept)) == sorted(map(id, left))  # all of these, and no twin
    assert left


def test_files_for_development_are_read(tmp_path):
    files = {name: tmp_path / f"{name}.jsonl" for name in ("rows", "development")}
    for name, file in files.items():
        file.write_text(json.dumps({"prompt": f"in {name}", "unsafe": 1}) + "\n")
    found = read(settings(Path("x"), **{name: [str(file)] for name, file in files.items()}))
    assert [(row.conversation[0].content, row.development) for row in found] == [
        ("in rows", False), ("in development", True)]  # fmt: skip


def test_caps():
    some = [*rows(60, source="a"), *rows(60, source="b"), *rows(60)]
    kept, aside = divide(some, settings(Path("x"), caps={"a": 30, "b": 0}))
    assert Counter(row.source for row in [*kept, *aside]) == {"a": 30, "": 120}
    taken = [row for row in [*kept, *aside] if row.source == "a"]
    assert {row.bad for row in taken} == {True, False}  # drawn, not the first ones


def test_any_window_of_an_answer_is_read_if_its_opening_is_kept(bert):
    long = " ".join(text(number, False) for number in range(60))
    asked = Message("user", "cup")
    some = [TrainingRow((asked, Message("assistant", long)), 1.0, "", "")] * 30
    some += [TrainingRow((Message("user", long),), 1.0, "", "")] * 30
    framing = Framing(load_backbone(str(bert), Lora(4, 8)).tokenizer, FRAME, 64, opening=8)
    windows = framing.pieces(some[0].conversation)
    first = framing.pieces(some[-1].conversation)[0]
    pieces = loop._pieces(settings(bert, opening=8), framing, some)
    assert {piece.ids for piece in pieces[:30]} > {windows[0].ids}
    assert set(pieces[30:]) == {first}
    plain = Framing(framing._tokenizer, FRAME, 64)
    again = loop._pieces(settings(bert), plain, some)
    assert set(again[:30]) == {plain.pieces(some[0].conversation)[0]}


def test_rows_of_which_the_tokenizer_leaves_nothing_are_left_out(bert, tmp_path):
    blind = [TrainingRow((Message("user", "🏔️" * n),), 1.0, "", "e") for n in range(1, 9)]
    done = train(settings(bert, epochs=3), [*rows(160), *blind], tmp_path / "g")
    assert done.unread == 8
    assert "e" not in done.rows
    assert "the tokenizer knows nothing in them: 8." in (tmp_path / "g" / "README.md").read_text()


# --- going on -------------------------------------------------------------------------------------


def test_a_training_goes_on_from_a_guard(make, tmp_path):
    case = make("bert")
    rare = {"learning_rate": 1e-12, "epochs": 0.1, "start": str(case.folder)}
    recipe = GuardTraining.model_validate(case.settings.model_dump() | rare)
    done = train(recipe, case.rows, tmp_path / "same")
    assert same(tmp_path / "same", case.folder)
    assert done.guard.config == case.done.guard.config
    assert done.losses[0] < 0.3  # not that of a guess
    others = [replace(row, category="other") for row in rows(160)]
    further = GuardTraining.model_validate(recipe.model_dump() | {"learning_rate": 1e-3})
    done = train(further, others, tmp_path / "more")
    assert not same(tmp_path / "more", case.folder)
    assert done.guard.config.categories == case.done.guard.config.categories
    assert f"started from the guard in `{case.folder}`" in (tmp_path / "more/README.md").read_text()


@pytest.mark.parametrize(("changes", "said"), [
    ({"rank": 5}, "has rank 4, the recipe 5"),
    ({"layers": 1}, "has layers 0, the recipe 1"),
    ({"base": "other"}, "the recipe other"),
    ({"start": "nowhere"}, "no guard in nowhere"),
])  # fmt: skip
def test_guards_to_go_on_from_that_do_not_fit(make, tmp_path, changes, said):
    case = make("bert")
    values = case.settings.model_dump() | {"start": str(case.folder)} | changes
    with pytest.raises(GuardError, match=said):
        train(GuardTraining.model_validate(values), case.rows, tmp_path / "g", on_step=never)
    assert list(tmp_path.iterdir()) == []


# --- the loss and the order -----------------------------------------------------------------------


def fit(some: list[TrainingRow], **changes: Any) -> Any:
    recipe = settings(Path("x"), **changes)
    return loop._Fit(recipe, ("a", "b"), some, [], None, None)


def test_the_loss_by_hand():
    def log_p(z: float) -> float:
        return -math.log(1 + math.exp(-z))

    out = torch.tensor([[2.0, 9.0, 0.0, 1.0], [9.0, -1.0, 0.0, 0.0], [0.5, 9.0, 3.0, 1.0]])
    some = [request(0.75, "b", "s"), reply(0.0), request(0.5, "a")]
    plain = -(0.75 * log_p(2) + 0.25 * log_p(-2)), -log_p(1), -(log_p(0.5) + log_p(-0.5)) / 2
    named = math.log(1 + math.exp(-1))  # "b" has 1, "a" has 0; a label of .5 is not unsafe
    assert float(loop._loss(fit(some), out, some)) == pytest.approx(sum(plain) + 0.1 * named)
    heavy = loop._loss(fit(some, weights={"s": 3}, category_weight=2), out, some)
    assert float(heavy) == pytest.approx(sum(plain) + 2 * plain[0] + 3 * 2 * named)
    bare = loop._loss(fit(some, category_weight=0), out, some)
    assert float(bare) == pytest.approx(sum(plain))


def test_soft_labels_are_learnt_as_such(bert, tmp_path):
    some = [replace(row, unsafe=0.95 if row.bad else 0.2) for row in rows(280, pairs=False)]
    guard = trained_only(settings(bert, epochs=8), some, tmp_path / "g")
    for bad, wanted in ((True, 0.95), (False, 0.2)):
        talks = [row.conversation for row in some if row.bad is bad]
        odds = [r.odds for r in guard.head_scores(talks)]
        mean = sum(1 / (1 + math.exp(-o)) for o in odds) / len(odds)
        assert mean == pytest.approx(wanted, abs=0.07)


def test_each_pass_sees_every_row_once_in_batches_of_like_length():
    draw = random.Random(0)
    pieces = [Piece((0,) * draw.randint(1, 200), REQUEST) for _ in range(500)]
    made = replace(fit([], batch_size=10), pieces=pieces)
    batches = list(loop._order(made, 100))
    for part in (batches[:50], batches[50:]):
        assert sorted(i for batch in part for i in batch) == list(range(500))
    spread = [max(len(pieces[i].ids) for i in b) - min(len(pieces[i].ids) for i in b)
              for b in batches]  # fmt: skip
    assert sum(spread) / len(spread) < 40  # of about 180
    assert batches[:50] != batches[50:]


# --- reading rows ---------------------------------------------------------------------------------


def write(folder: Path, *lines: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_rows_of_a_file(tmp_path):
    file = write(
        tmp_path,
        {"prompt": "p", "prompt_unsafe": 1, "category": "c", "source": "s"},
        {"prompt": "p", "response": "r", "prompt_unsafe": 0.25, "unsafe": True},
        {"prompt": "p", "unsafe": "0.5", "response": " "},
        {"prompt": "p", "response": "r", "unsafe": 0},
        {"prompt": "p", "response": "r", "prompt_unsafe": 1},
        {"prompt": "p", "response": "r"},
        {"prompt": "p", "prompt_unsafe": None, "unsafe": ""},
        {"prompt": "p", "response": "r", "unsafe": 0, "output": "what else was said"},
    )
    ask, said = (Message("user", "p"),), (Message("user", "p"), Message("assistant", "r"))
    assert read(settings(Path("x"), rows=[str(file)])) == [
        TrainingRow(ask, 1.0, "c", "s"),
        TrainingRow(said, 1.0, "", ""), TrainingRow(ask, 0.25, "", ""),
        TrainingRow(ask, 0.5, "", ""),
        TrainingRow(said, 0.0, "", ""),
        TrainingRow(ask, 1.0, "", ""),
        TrainingRow(said, 0.0, "", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(("safe", "unsafe", "changes", "enough"), [
    (1500, 150, {}, True), (1000, 150, {}, False), (60, 30, {}, False),
    (60, 30, {"held_out": 0.5, "loose_fpr": 0.05}, True),
    (15, 30, {"held_out": 0.5, "loose_fpr": 0.05}, False),
])  # fmt: skip
def test_the_smallest_training_sets_of_the_guide(safe, unsafe, changes, enough):
    """Safe rows held out: 100 for false alarms of 1 %, 20 for 5 %."""
    guide = " ".join((Path(__file__).parents[3] / "docs/guards.md").read_text().split())
    assert "about 1,500 safe rows and 150 unsafe ones" in guide
    assert "about 60 safe and 30 unsafe rows, with `held_out = 0.5` and `loose_fpr = 0.05`" in guide
    found = [
        TrainingRow((Message("user", f"request {i}"),), float(i < unsafe), "", "")
        for i in range(safe + unsafe)
    ]
    wanted = GuardTraining(**changes)
    if enough:
        training_rows.check(wanted, found)
    else:
        with pytest.raises(GuardError, match="safe rows are held out, too few") as caught:
            training_rows.check(wanted, found)
        assert "give more rows" in caught.value.hint


def test_columns_by_other_names_and_a_csv_with_empty_cells(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("prompt,response,bad,worse\na,,1,\nb,c,,0.5\nd,e,0,1\n")
    found = read(settings(Path("x"), rows=[str(file)], prompt_label="bad", pair_label="worse"))
    assert [(len(row.conversation), row.unsafe) for row in found] == [
        (1, 1.0), (2, 0.5), (2, 1.0), (1, 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), [
    ({"prompt": "", "unsafe": 1}, "rows.jsonl, line 1: prompt is missing or empty"),
    ({"unsafe": 1, "text": CANARY}, "line 1: prompt is missing or empty"),
    ({"prompt": 5, "unsafe": 1}, "line 1: prompt is missing or empty"),
    ({"prompt": CANARY, "unsafe": 1.5}, "line 1: unsafe is not a number from 0 to 1"),
    ({"prompt": CANARY, "unsafe": -1}, "unsafe is not a number from 0 to 1"),
    ({"prompt": CANARY, "unsafe": float("nan")}, "unsafe is not a number from 0 to 1"),
    ({"prompt": CANARY, "prompt_unsafe": CANARY}, "prompt_unsafe is not a number from 0 to 1"),
    ({"prompt": CANARY, "unsafe": [1]}, "unsafe is not a number from 0 to 1"),
    ({"prompt": CANARY, "label": 1}, "holds no labelled row"),
    ({"prompt": CANARY, "completion": CANARY, "unsafe": 1}, "completion holds an answer"),
    ({"prompt": CANARY, "response": " ", "Output": CANARY, "unsafe": 1}, "Output holds an answer"),
    ({"prompt": CANARY, "response": [CANARY], "unsafe": 1}, "response is not text but list"),
])  # fmt: skip
def test_rows_that_cannot_be_used(tmp_path, line, said):
    with pytest.raises(DataError) as caught:
        read(settings(Path("x"), rows=[str(write(tmp_path, line))]))
    assert said in caught.value.message
    assert caught.value.hint
    assert CANARY not in caught.value.message + caught.value.hint


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="rows is empty"):
        read(settings(Path("x")))
    with pytest.raises(FedRAIError, match=r"none\.jsonl"):
        read(settings(Path("x"), rows=[str(tmp_path / "none.jsonl")]))
    file = tmp_path / "torn.jsonl"
    file.write_text(f'{{"prompt": "{CANARY}"')
    with pytest.raises(DataError) as caught:
        read(settings(Path("x"), rows=[str(file)]))
    assert "torn.jsonl, line 1" in caught.value.message
    assert CANARY not in caught.value.message


# --- mistakes, told before anything is loaded -----------------------------------------------------

SAFE = [TrainingRow((Message("user", f"{CANARY} {i}"),), 0.0, "", "s") for i in range(60)]


@pytest.mark.parametrize(("some", "changes", "said"), [
    ([], {}, "0 rows are to train on, 0 of them unsafe"),
    (SAFE, {}, "to train on, 0 of them unsafe; a guard needs unsafe and safe ones"),
    ([replace(row, unsafe=1.0) for row in SAFE], {}, "a guard needs unsafe and safe ones"),
    (rows(40, pairs=False), {"held_out": 0.0001}, "0 rows are held out"),
    (rows(40, pairs=False), {"held_out": 0.9999}, "0 rows are to train on"),
    (rows(40), {"caps": {"b": 1}}, "caps names the source 'b', which no row has"),
    (rows(40), {"threshold_sources": ["b"]}, "threshold_sources names the source 'b'"),
    (rows(40), {"weights": {"b": 1}}, "weights names the source 'b', which no row has"),
    (rows(40, source="b"), {"weights": {"b": 0}}, "0 rows are to train on"),
    (rows(40), {"strict_fpr": 0.01, "loose_fpr": 0.1}, "strict_fpr 0.01 is less than loose_fpr"),
    (rows(40), {"loose_fpr": 0.001}, "false alarms of 0.001: that needs 1000"),
])  # fmt: skip
def test_rows_and_rates_that_do_not_do(tmp_path, some, changes, said):
    with pytest.raises(GuardError) as caught:  # and not for the base, which is not there
        train(settings(tmp_path / "nowhere", **changes), some, tmp_path / "g")
    assert said in caught.value.message
    assert caught.value.hint
    assert CANARY not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_as_many_safe_rows_as_the_loose_threshold_needs():
    some = rows(200)
    safe = sum(not row.bad for row in divide(some, settings(Path("x")))[1])
    training_rows.check(settings(Path("x"), loose_fpr=1 / safe), some)
    with pytest.raises(GuardError, match=f"that needs {safe + 1}"):
        training_rows.check(settings(Path("x"), loose_fpr=1 / (safe + 1)), some)


@pytest.mark.parametrize(("changes", "kind", "said"), [
    ({"frame": ["[CLS]", "[SEP]"]}, GuardError, "frame needs 3 parts, got 2"),
    ({"frame": ["x", "y", "z"]}, GuardError, "'x' holds no special token"),
    ({"max_length": 65}, GuardError, "more than the 64 tokens"),
    ({"layers": 3}, ModelError, "has 2 layers, expected 3"),
    ({"base": "nowhere/at/all"}, FedRAIError, "nowhere"),
])  # fmt: skip
def test_bases_and_frames_that_do_not_do(bert, tmp_path, changes, kind, said):
    recipe = GuardTraining.model_validate(settings(bert).model_dump() | changes)
    with pytest.raises(kind, match=said):
        train(recipe, rows(200), tmp_path / "g", on_step=never)
    assert list(tmp_path.iterdir()) == []


def never(_: object) -> None:
    raise AssertionError("training began")


def test_chatml_on_a_decoder_that_does_not_know_it(tiny_model, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in tiny_model.iterdir():
        text = file.read_bytes()
        if file.suffix == ".json":
            text = text.replace(b"<|im_end|>", b"<|stop|>")
        (base / file.name).write_bytes(text)
    with pytest.raises(GuardError, match="could imitate it") as caught:
        train(settings(base, frame=[]), rows(200), tmp_path / "g", on_step=never)
    assert "<|stop|>" in caught.value.hint


def test_a_base_that_is_no_model(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded as a model"):
        train(settings(tmp_path / "base"), rows(200), tmp_path / "g")


def test_a_learning_rate_that_is_too_high(bert, tmp_path):
    with pytest.raises(GuardError) as caught:
        train(settings(bert, learning_rate=1e30, warmup_steps=0), rows(200), tmp_path / "g")
    assert "the loss of step" in caught.value.message
    assert "lower learning_rate" in caught.value.hint
    assert not (tmp_path / "g").exists()


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["on_step", "on_judged"])
def test_an_interrupted_training_leaves_nothing(bert, tmp_path, when):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings(bert, epochs=1), rows(200), tmp_path / "deep" / "g", **{when: stop})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way(bert, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for name in ("file", "full"):
        with pytest.raises(GuardError, match="already exists"):
            train(settings(bert), rows(200), tmp_path / name, on_step=never)
    assert (tmp_path / "full" / "mine").read_text() == "x"
    (tmp_path / "free").mkdir()
    train(settings(bert, epochs=2), rows(200), tmp_path / "free")
    assert sorted(file.name for file in (tmp_path / "free").iterdir()) == [
        "README.md", trained.CONFIG, trained.WEIGHTS,
    ]  # fmt: skip
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "free", "full"]


def test_the_card_says_counts_and_figures(make):
    case = make("bert")
    card = (case.folder / "README.md").read_text()
    assert case.done.guard.revision[:12] in card
    kept = divide(case.rows, case.settings)[0]
    assert f"{len(kept):,} rows, {len(case.steps):,} steps of 16" in card
    for name, cut in case.done.reached.items():
        assert f"| {name} | {cut.value:.4f} | {cut.recall} | {cut.false_positive_rate} |" in card
    for kind, found in case.done.held_out.items():
        total = sum(row_kind(row) == kind for row in case.aside)
        assert (
            f"| {kind} | {total} | {found.counts.recall.scored} | {found.counts.f1:.3f} |" in card
        )
    assert "Categories: bird, boat, lamp." in card
    assert "zog" not in card
