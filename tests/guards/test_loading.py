"""From a name to a guard: folders, tables, files of tables, hub names, and names that are none."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
from transformers.utils import logging

from fedrai import recipe
from fedrai.errors import FedRAIError, GuardError, RecipeError
from fedrai.guards import loading
from fedrai.guards.kinds import generative, trained
from fedrai.guards.kinds.cascade import AnyOf, Cascade
from fedrai.guards.kinds.classifier import ClassifierGuard
from fedrai.guards.kinds.formats import FORMATS
from fedrai.guards.kinds.generative import GenerativeGuard
from fedrai.guards.kinds.remote import RemoteGuard
from fedrai.guards.kinds.rules import RulesGuard
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.guards.kinds.trained import Config, TrainedGuard
from fedrai.guards.loading import available_guards, load, read_tables
from fedrai.model import Lora, load_backbone
from fedrai.records import Message
from tiny_guards import WORDS, encoder

RULES = '[guards.words]\nkind = "rules"\nwords = ["zog"]\n'


def asked(guard: Any, *texts: str) -> list[float | None]:
    verdicts = guard.judge([(Message("user", text),) for text in texts]).verdicts
    return [verdict.probability for verdict in verdicts]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder as `fedrai guard train` writes it."""
    base = encoder(tmp_path / "bert")
    config = Config("mine", str(base), 1, 2, 4.0, ("[CLS]", "[SEP]", "[SEP]"), 32, ("a",),
                    thresholds={"strict": 0.2, "loose": 0.4})  # fmt: skip
    body = load_backbone(str(base), Lora(2, 16), layers=1, dtype="float32")
    head = trained.new_head(body, 1)
    head.bias.data = torch.tensor([1.0, -1.0, 0.0])
    trained.save(tmp_path / "mine", config, body.fresh_adapter(0), head)
    return tmp_path / "mine"


def tables(text: str) -> Any:
    Path("t.toml").write_text(text)
    return recipe.load_guards(Path("t.toml"))


# --- folders and the embedded guard ---------------------------------------------------------------


def test_a_folder(mine):
    guard = load(str(mine), device="cpu")
    assert isinstance(guard, TrainedGuard)
    assert (guard.name, guard.thresholds["strict"]) == ("mine", 0.2)
    assert asked(guard, "zog", "cup") == pytest.approx([0.7310586] * 2, abs=1e-5)  # sigmoid(1)
    assert load("mine").revision == guard.revision
    assert load("./mine/").revision == guard.revision


def test_the_embedded_guard(mine, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "FOLDER", mine)
    assert load("embedded").revision == trained.revision_of(mine)
    assert available_guards()[0].name == "embedded"
    assert available_guards()[0].ready
    monkeypatch.setattr(loading, "FOLDER", tmp_path / "nowhere")
    assert not available_guards()[0].ready
    with pytest.raises(GuardError, match="this installation has no embedded guard") as caught:
        load("embedded")
    assert "fedrai guard list" in caught.value.hint


# --- tables ---------------------------------------------------------------------------------------


def test_rules_in_a_table_and_in_a_file():
    Path("rules.txt").write_text("[bad]\nzog\n")
    found = tables(RULES + '[guards.filed]\nkind = "rules"\nfile = "rules.txt"\n')
    for name in ("words", "filed"):
        guard = load(name, tables=found)
        assert isinstance(guard, RulesGuard)
        assert guard.name == name
        high, low = asked(guard, "a zog", "a cup")
        assert high >= guard.thresholds["loose"] > low
    both = tables('[guards.x]\nkind = "rules"\nfile = "rules.txt"\nwords = ["a"]\n')
    with pytest.raises(GuardError, match=r"guards\.x has a file and rules of its own"):
        load("x", tables=both)


def test_a_cascade_and_any_of_others(mine):
    found = tables(
        RULES
        + '[guards.both]\nkind = "cascade"\nfirst = "words"\nsecond = "mine"\n'
        + "low = 0.3\nhigh = 0.8\n"
        + '[guards.all]\nkind = "any"\nguards = ["words", "both", "./mine"]\n'
    )
    cascade = load("both", tables=found)
    assert isinstance(cascade, Cascade)
    assert (cascade.name, cascade.low, cascade.high) == ("both", 0.3, 0.8)
    assert (cascade.first.name, cascade.second.name) == ("words", "mine")
    nested = load("all", tables=found)
    assert isinstance(nested, AnyOf)
    high, low = asked(nested, "a zog", "a cup")
    assert high > nested.thresholds["strict"]
    assert high >= low


@pytest.mark.parametrize(("text", "chain"), [
    ('[guards.a]\nkind = "any"\nguards = ["a"]\n', "a > a"),
    ('[guards.a]\nkind = "cascade"\nfirst = "b"\nsecond = "words"\n'
     '[guards.b]\nkind = "any"\nguards = ["words", "c"]\n'
     '[guards.c]\nkind = "any"\nguards = ["a"]\n', "a > b > c > a"),
    ('[guards.a]\nkind = "any"\nguards = ["t.toml:b"]\n'
     '[guards.b]\nkind = "any"\nguards = ["t.toml:a"]\n', "a > b > a"),
])  # fmt: skip
def test_a_guard_that_contains_itself(text, chain):
    with pytest.raises(GuardError, match=rf"guards\.a contains itself \({chain}\)"):
        load("a", tables=tables(RULES + text))


def test_a_guard_may_stand_twice_in_another():
    found = tables(
        RULES + '[guards.a]\nkind = "any"\nguards = ["words"]\n'
        '[guards.b]\nkind = "any"\nguards = ["a", "words", "a"]\n'
    )
    assert asked(load("b", tables=found), "zog")[0] > 0.5


def test_an_endpoint():
    guard = load("far", tables=tables(
        '[guards.far]\nkind = "endpoint"\nurl = "http://localhost:8000/v1"\nmodel = "org/m"\n'
        'unsafe = ["Yes"]\nsafe = ["No"]\nlead = "Safety:"\nretries = 0\ntimeout = 2\n'
        'concurrency = 3\napi_key_env = "KEY"\nrevision = "r"\ncategories = {S1 = "x"}\n'
    ))  # fmt: skip
    assert isinstance(guard, RemoteGuard)
    assert guard.name == "far"
    wanted = {"url": "http://localhost:8000/v1", "model": "org/m", "unsafe": ["Yes"],
              "safe": ["No"], "lead": "Safety:", "retries": 0, "timeout": 2.0, "concurrency": 3,
              "api_key_env": "KEY", "revision": "r", "categories": {"S1": "x"}}  # fmt: skip
    settings = asdict(guard.settings) | asdict(guard._endpoint._access)
    assert {key: settings[key] for key in wanted} == wanted
    away = tables(
        '[guards.far]\nkind = "endpoint"\nurl = "http://elsewhere.example/v1"\nmodel = "m"\n'
    )
    with pytest.raises(GuardError):  # without TLS to another machine
        load("far", tables=away)


def test_a_classifier(tmp_path):
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
                        id2label={0: "calm", 1: "wild"})  # fmt: skip
    torch.manual_seed(0)
    logging.disable_progress_bar()
    BertForSequenceClassification(config).save_pretrained(tmp_path / "c")
    BertTokenizer(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(tmp_path / "c")
    text = '[guards.cls]\nkind = "classifier"\nmodel = "./c"\ndtype = "float32"\ndevice = "cpu"\n'
    guard = load("cls", tables=tables(text + 'unsafe_labels = ["wild"]\n'))
    other = load("cls", tables=tables(text + 'unsafe_labels = ["calm"]\n'))
    assert isinstance(guard, ClassifierGuard)
    assert guard.name == "cls"
    assert asked(guard, "zog")[0] == pytest.approx(1 - asked(other, "zog")[0], abs=1e-6)
    with pytest.raises(GuardError):  # neither name says which is unsafe
        load("cls", tables=tables(text))


def test_a_generative_guard(tiny_model):
    text = f'[guards.gen]\nkind = "generative"\nmodel = "{tiny_model}"\ndtype = "float32"\n'
    found = tables(text + 'format = "llama-guard-3"\nmax_length = 256\nbatch_tokens = 512\n')
    guard = load("gen", tables=found)
    assert isinstance(guard, GenerativeGuard)
    assert guard.name == "gen"
    (verdict,) = guard.judge([(Message("user", "cup"),)]).verdicts
    assert verdict.guard.startswith("gen@")
    assert verdict.problem in (None, "unparsed")  # random weights say nothing in particular
    other = load("gen", tables=tables(text + 'format = "llama-guard-3"\nmax_length = 240\n'))
    assert other.revision != guard.revision
    with pytest.raises(GuardError, match="no guard format is known"):
        load("gen", tables=tables(text))
    with pytest.raises(GuardError, match="max_length"):
        load("gen", tables=tables(text + 'format = "llama-guard-3"\nmax_length = 4096\n'))


@pytest.mark.parametrize("spec", [
    "Qwen/Qwen3Guard-Gen-0.6B", "hf:Qwen/Qwen3Guard-Gen-0.6B@main", "meta-llama/Llama-Guard-3-1B",
    "./models/Llama-Guard-3-8B", "/models/guards/Llama-Guard-3-8B",
])  # fmt: skip
def test_models_of_a_known_format(monkeypatch, spec):
    calls: list[Any] = []
    stand_in = ScriptedGuard({})
    monkeypatch.setattr(generative, "load", lambda s, **_o: calls.append(s) or stand_in)
    assert load(spec, device="cpu") is stand_in
    assert [(c.model, c.device, c.max_length, c.format) for c in calls] == [(spec, "cpu", 2048, "")]


@pytest.mark.parametrize("spec", ["evil/Llama-Guard-3-8B", "hf:evil/Llama-Guard-3-8B@main"])
def test_a_known_name_of_another_owner_is_not_loaded(monkeypatch, spec):
    monkeypatch.setattr(generative, "load", lambda *_a, **_o: pytest.fail("it was loaded"))
    with pytest.raises(GuardError, match="the name of meta-llama/Llama-Guard-3-8B") as caught:
        load(spec)
    assert 'format = "llama-guard-3"' in caught.value.hint


# --- files of tables ------------------------------------------------------------------------------


def test_files_of_tables():
    Path("one.toml").write_text(RULES)
    Path("two.toml").write_text(
        RULES + '[guards.wide]\nkind = "any"\nguards = ["words"]\n[other]\nkey = 1\n'
    )
    assert load("one.toml").name == "words"
    assert load("two.toml").name == "wide"
    assert load("two.toml:words").name == "words"
    assert load("./two.toml:wide").name == "wide"
    assert list(read_tables(Path("two.toml"))) == ["words", "wide"]


def test_a_table_of_the_recipe_may_name_a_file(mine):
    Path("more.toml").write_text(RULES)
    guard = load("words", tables=tables('[guards.words]\nkind = "any"\nguards = ["more.toml"]\n'))
    assert isinstance(guard, AnyOf)
    assert asked(guard, "zog")[0] > asked(guard, "cup")[0]


def test_folders_and_models_are_no_files_of_tables(mine):
    mine.rename("odd.toml")
    assert load("odd.toml").name == "mine"


@pytest.mark.parametrize(("content", "spec", "said"), [
    (None, "none.toml", "cannot read the recipe none.toml"),
    ("[guards.a", "f.toml", "f.toml is not valid TOML"),
    ("", "f.toml", "f.toml has no [guards.NAME] table"),
    ('guards = "x"', "f.toml", "f.toml: guards: "),
    (RULES, "f.toml:nobody", "f.toml has no [guards.nobody]"),
    (RULES, "f.toml:embedded", "f.toml has no [guards.embedded]"),
    ('[guards.a]\nwords = ["x"]\n', "f.toml", "guards.a.kind is missing"),
    ('[guards.a]\nkind = "rule"\n', "f.toml", "guards.a.kind: "),
    ('[guards.a]\nkind = "rules"\nwrods = ["x"]\n', "f.toml",
     "unknown key guards.a.wrods (did you mean words?)"),
    ('[guards.a]\nkind = "any"\nguards = []\n', "f.toml", "guards.a.guards: "),
    ('[guards.a]\nkind = "cascade"\nfirst = "words"\n', "f.toml", "guards.a.second is missing"),
    (RULES + '[guards.a]\nkind = "any"\nguards = ["wordz"]\n', "f.toml", "(did you mean words?)"),
    (RULES + '[guards.a]\nkind = "cascade"\nfirst = "words"\nsecond = "words"\nlow = 0.9\n'
     "high = 0.1\n", "f.toml", "low < high"),
])  # fmt: skip
def test_files_that_cannot_be_used(content, spec, said):
    if content is not None:
        Path("f.toml").write_text(content)
    with pytest.raises((GuardError, RecipeError)) as caught:
        load(spec)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


# --- names that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "near"), [
    ("embeded", "embedded"), ("wrods", "words"),
    ("Qwen/Qwen3Gard-Gen-0.6B", "Qwen/Qwen3Guard-Gen-0.6B"),
])  # fmt: skip
def test_near_names(spec, near):
    with pytest.raises(GuardError) as caught:
        load(spec, tables=tables(RULES))
    assert f"no guard {spec!r}" in caught.value.message
    assert f"(did you mean {near}?)" in caught.value.message
    assert "fedrai guard list" in caught.value.hint


@pytest.mark.parametrize(
    "spec", ["", " ", "no/such", "./nowhere", "C:\\guards\\mine", "\x00", "?" * 200]
)
def test_names_of_nothing(spec):
    with pytest.raises(FedRAIError) as caught:
        load(spec)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_known_guards_stand_once_each():
    names = [entry.name for entry in available_guards()]
    assert len(names) == len(set(names))
    assert set(names[1:]) == {model for entry in FORMATS.values() for model in entry.models}
    gated = {m for entry in FORMATS.values() if entry.gated for m in entry.models}
    for entry in available_guards()[1:]:
        assert ("consent" in entry.what) is (entry.name in gated)
        assert entry.licence
        assert not entry.ready
