"""Recipes: what is allowed, what an error says, and that what is written reads the same."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import RecipeError
from fedrai.recipe import loading
from fedrai.recipe.sections import (
    ALGORITHMS,
    FedAvg,
    FedOpt,
    FedProx,
    Recipe,
    Robust,
    sections,
    seed_for,
)

MINIMAL = """
[model]
base = "some/model"
[[data.sources]]
path = "rows.jsonl"
[[data.sources]]
path = "fedrai:ordinary"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL)
    return path


def table() -> dict:
    return tomllib.loads(MINIMAL)


def changed(key: str, value: object) -> dict:
    """The minimal recipe with one more key."""
    whole = table()
    *path, last = key.split(".")
    here = whole
    for part in path:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[last] = value
    return whole


def problem(whole: dict) -> str:
    with pytest.raises(RecipeError) as caught:
        loading.validate(whole, "r.toml")
    return caught.value.message


# --- reading --------------------------------------------------------------------------------------


def test_a_minimal_recipe_gets_the_defaults(file):
    loaded = loading.load(file)
    assert loaded.model.base == "some/model"
    assert [s.path for s in loaded.data.sources] == ["rows.jsonl", "fedrai:ordinary"]
    assert (loaded.adapter.rank, loaded.training.batch_size) == (16, 16)
    assert loaded.aggregation == FedAvg()
    assert loaded.arms == {}


def test_files_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("model = [")
    with pytest.raises(RecipeError, match=r"broken\.toml is not valid TOML"):
        loading.load(broken)
    broken.write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match=r"broken\.toml is not valid TOML"):
        loading.load(broken)
    with pytest.raises(RecipeError, match=r"no recipe at .*nowhere") as caught:
        loading.load(tmp_path / "nowhere.toml")
    assert "shipped recipes:" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("trainings", "unknown key trainings (did you mean training?)"),
        ("training.learningrate", "training.learningrate (did you mean learning_rate?)"),
        ("data.sources.0.harmfull", "data.sources.0.harmfull (did you mean harmful?)"),
        ("data.sources.1.columns.promt", "data.sources.1.columns.promt (did you mean prompt?)"),
        ("data.harm.shares", "data.harm.shares (did you mean share?)"),
        ("adapter.xyzzy", "unknown key adapter.xyzzy (known: start, rank, ranks, alpha"),
    ],
)
def test_unknown_keys_are_named_with_a_suggestion(key, said):
    assert said in problem(changed(key, 1))


def test_unknown_keys_of_an_algorithm_are_named_with_its_own_keys():
    whole = changed("aggregation", {"algorithm": "fedprox", "proximal_nu": 1})
    assert "aggregation.proximal_nu (did you mean proximal_mu?)" in problem(whole)
    whole = changed("aggregation", {"algorithm": "fedavg", "proximal_mu": 1})
    assert "unknown key aggregation.proximal_mu (known: algorithm, lora)" in problem(whole)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("filter.mod", "drop", "unknown key filter.mod (did you mean mode?)"),
        ("filter.mode", "on", "filter.mode: expected 'off', 'audit', 'drop' or 'replace'"),
        ("filter.judge", "both", "filter.judge: expected 'prompt', 'response' or 'pair'"),
        (
            "filter.threshold",
            "stric",
            'filter.threshold: expected "strict", "loose" or a number from 0 to 1, got \'stric\'',
        ),
        ("filter.threshold", 1.01, "or a number from 0 to 1, got 1.01"),
        ("filter.threshold", True, "or a number from 0 to 1, got True"),
        ("filter.threshold", float("nan"), "or a number from 0 to 1, got nan"),
        ("filter.unscored", "pass", "filter.unscored: expected 'drop' or 'keep'"),
        ("filter.on_guard_failure", "go", "on_guard_failure: expected 'stop' or 'continue'"),
        ("filter.count_epsilon", -1, "filter.count_epsilon: expected 0.0 or more"),
        ("filter.count_epsilon", 1e-9, "filter: count_epsilon must be 0 or at least 9.5e-07"),
        ("filter", {"guard": "labels", "calibration": "x"}, 'guard = "labels" is exact'),
        ("filter", {"guard": "labels", "mode": "audit"}, "it needs sources with harmful = true"),
        (
            "guards.labels",
            {"kind": "rules", "words": ["a"]},
            "guards.labels: this name is reserved for",
        ),
        (
            "guards.rules",  # named like a kind: the name stays in the message
            {"kind": "rules", "wordz": ["a"]},
            "unknown key guards.rules.wordz (did you mean words?)",
        ),
        ("guards.median", {"kind": "endpoint", "url": "x"}, "guards.median.model is missing"),
        ("guards.a", {"kind": "any", "guards": []}, "guards.a.guards: List should have at least 1"),
        (
            "guards.a",
            {"kind": "rule"},
            "guards.a.kind: there is no kind 'rule' (did you mean rules?)",
        ),
        (
            "guards.a",
            {"words": ["b"]},
            "guards.a.kind is missing (known: generative, classifier, ",
        ),
    ],
)
def test_filters_and_guards_that_are_not_allowed(key, value, said):
    assert said in problem(changed(key, value))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"mined_from": 10, "request_count": 16}, "mined_from = 10 is a smaller pool than the 16"),
        ({"mined_from": 10, "harmless_count": 11}, "mined_from = 10 is a smaller pool than the 11"),
        ({"mix": {"examples": 0.5}}, "mix.examples is a share of `examples`, which is empty"),
    ],
)
def test_mining_that_cannot_be(section, said):
    assert said in problem(changed("constitution", section))


def test_a_filter_by_labels_may_be_switched_off():
    off = loading.validate(changed("filter", {"guard": "labels"}))
    assert (off.filter.mode, off.filter.threshold) == ("off", "strict")
    whole = changed("data.sources.0.harmful", True)
    whole["filter"] = {"guard": "labels", "mode": "drop", "threshold": 1}
    assert loading.validate(whole).filter.threshold == 1.0


def test_guards_are_written_and_read_again():
    whole = changed(
        "guards",
        {
            "a": {"kind": "rules", "patterns": ["(?i)x\\d+"], "categories": {"hate": ["y"]}},
            "b.c": {"kind": "endpoint", "url": "http://localhost/v1", "model": "m"},
            "d": {"kind": "cascade", "first": "a", "second": "b.c"},
        },
    )
    whole["filter"] = {"mode": "replace", "guard": "d", "threshold": 0.25, "count_epsilon": 0.5}
    loaded = loading.validate(whole)
    for explained in (False, True):
        again = loading.validate(tomllib.loads(loading.to_toml(loaded, explained=explained)))
        assert again == loaded
        assert again.hash == loaded.hash
    assert loading.arm(loading.validate(whole | {"arms": {"e": {}}}), "e").guards == loaded.guards


def test_all_problems_are_named_at_once():
    whole = changed("training.batch_sizes", 3)
    whole["adapter"] = {"rank": 0}
    del whole["model"]["base"]
    message = problem(whole)
    assert message.startswith("r.toml: ")
    for part in ("model.base is missing", "adapter.rank", "batch_sizes (did you mean batch_size?)"):
        assert part in message


@pytest.mark.parametrize(
    ("key", "said"),
    [("model", "section [model] is missing; it needs base"), ("data", "section [data] is missing")],
)
def test_missing_sections_are_named(key, said):
    whole = table()
    del whole[key]
    assert said in problem(whole)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rounds", 3, "unknown key rounds (did you mean federation.rounds?)"),
        ("federation.rounds", "many", "federation.rounds: expected a whole number, got 'many'"),
        ("training.learning_rate", "x", "training.learning_rate: expected a number, got 'x'"),
        ("filter.mode", "replce", "got 'replce' (did you mean replace?)"),
        ("model", "x", "model: expected a table, got 'x'"),
        (
            "aggregation.algorithm",
            "fedavgg",
            "aggregation.algorithm: there is no algorithm 'fedavgg' (did you mean fedavg?)",
        ),
    ],
)
def test_errors_use_the_terms_of_recipes(key, value, said):
    assert said in problem(changed(key, value))


def test_an_error_names_the_override_that_it_comes_from(file):
    with pytest.raises(RecipeError) as caught:
        loading.load(file, ["seed=3", "rounds=3"])
    assert caught.value.message == (
        "-o rounds=3: unknown key rounds (did you mean federation.rounds?)"
    )
    assert caught.value.hint == f"`fedrai recipe show {file}` prints every key with its value"
    file.write_text(file.read_text().replace("[model]", "[modell]"))
    with pytest.raises(RecipeError) as caught:
        loading.load(file, ["adapter.rank=0"])
    assert f"{file}: section [model] is missing; it needs base; unknown key modell" in str(
        caught.value
    )
    assert "-o adapter.rank=0: adapter.rank: expected 1 or more, got 0" in str(caught.value)
    assert caught.value.hint.startswith("`fedrai recipe new NEW.toml`")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../evil"),
        ("name", ""),
        ("seed", -1),
        ("model.dtype", "float16"),
        ("adapter.rank", 0),
        ("adapter.rank", "sixteen"),
        ("adapter.alpha", 0),
        ("adapter.dropout", 1.0),
        ("data.max_length", 7),
        ("data.on_bad_rows", "ignore"),
        ("data.partition.alpha", 0),
        ("data.harm.share", 1.01),
        ("data.sources.0.share", 0),
        ("training.local_steps", 0),
        ("training.learning_rate", 0),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", float("inf")),
        ("training.clip_norm", 0),
        ("federation.clients", 0),
        ("federation.rounds", 0),
        ("federation.round_timeout", -1),
        ("evaluation.advbench", 521),
        ("evaluation.top_p", 0),
    ],
)
def test_bounds(key, value):
    message = problem(changed(key, value))
    assert f"r.toml: {key}: " in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapter.rank", 1),
        ("adapter.rank", 512),
        ("adapter.dropout", 0.0),
        ("data.max_length", 8),
        ("data.harm.malicious_clients", 10),
        ("evaluation.advbench", 520),
        ("evaluation.top_p", 1.0),
    ],
)
def test_values_on_the_bounds_are_allowed(key, value):
    loading.validate(changed(key, value))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.micro_batch_size": 17}, "micro_batch_size must not be larger than batch_size"),
        ({"federation.clients_per_round": 11}, "must not be larger than clients"),
        ({"federation.min_clients": 11}, "min_clients must not be larger"),
        ({"federation.quorum": 11}, "quorum must not be larger"),
        ({"federation.quorum": 2, "federation.min_clients": 3}, "quorum must not be smaller"),
        (
            {"federation.quorum": 4, "aggregation.algorithm": "krum", "aggregation.malicious": 1},
            "needs 5 updates a round; a round closes with 4",
        ),
        (
            {"federation.quorum": 4, "aggregation.algorithm": "trimmed-mean"},
            "trim = 0.2 cuts nothing from 4 updates; a round closes with 4",
        ),
        (
            {
                "aggregation.algorithm": "multi-krum",
                "aggregation.malicious": 2,
                "aggregation.selected": 9,
            },
            "leaves out fewer than the malicious ones; expected 8 at most",
        ),
        (
            {"aggregation.algorithm": "multi-krum", "aggregation.selected": 10},
            "9 at most",
        ),
        ({"aggregation.algorithm": "bulyan"}, "aggregation.malicious = 0 is a plain mean"),
        (
            {"federation.clients": 2, "aggregation.algorithm": "median"},
            "needs 3 updates a round; a round samples 2",
        ),
        ({"data.partition.scheme": "files"}, "data.partition.files is needed"),
        ({"data.sources": []}, "data.sources is empty"),
        ({"data.sources.0.share": 0.5}, "set share on all sources of a kind"),
        ({"data.harm.share": 0.1}, "no source has harmful = true"),
        (
            {"data.harm.placement": "concentrated", "data.harm.malicious_clients": 11},
            "malicious_clients is larger than federation.clients",
        ),
        ({"aggregation.algorithm": "fedsgd"}, "fedsgd"),
    ],
)
def test_sections_that_contradict_each_other(file, changes, said):
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    with pytest.raises(RecipeError, match=re.escape(said)):
        loading.load(file, overrides)


def test_clients_of_a_round():
    federation = loading.validate(changed("federation", {"clients": 5})).federation
    assert federation.sampled == 5
    settings = {"clients": 5, "clients_per_round": 3}
    assert loading.validate(changed("federation", settings)).federation.sampled == 3


def test_a_recipe_is_frozen(file):
    loaded = loading.load(file)
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 3


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_are_toml_values_and_bare_words_are_strings(file):
    loaded = loading.load(
        file,
        [
            "seed=7",
            "training.learning_rate = 1e-3",
            "training.gradient_checkpointing=true",
            "model.dtype=float32",
            "model.base=~/models/a b",
            'adapter.target_modules=["q_proj", "v_proj"]',
            "data.sources.1.path=other.csv",
            "data.sources.1.columns={prompt = 'question'}",
        ],
    )
    assert (loaded.seed, loaded.training.learning_rate) == (7, 0.001)
    assert loaded.training.gradient_checkpointing is True
    assert (loaded.model.dtype, loaded.model.base) == ("float32", "~/models/a b")
    assert loaded.adapter.target_modules == ["q_proj", "v_proj"]
    assert [s.path for s in loaded.data.sources] == ["rows.jsonl", "other.csv"]
    assert loaded.data.sources[1].columns.prompt == "question"


def test_steps_take_the_place_of_epochs(tmp_path):
    """With epochs, steps would have no effect; an arm's steps replace them too."""
    file = tmp_path / "r.toml"
    body = changed("training", {"local_epochs": 2.0, "local_steps": 10})
    body["arms"] = {"few": {"training": {"local_steps": 3}}}
    file.write_text(tomlkit.dumps(body))
    training = loading.load(file, ["training.local_steps=5"]).training
    assert (training.local_steps, training.local_epochs) == (5, 0)
    both = loading.load(file, ["training.local_epochs=1.5", "training.local_steps=5"]).training
    assert (both.local_steps, both.local_epochs) == (5, 1.5)
    assert loading.load(file).training.local_epochs == 2
    assert loading.arm(loading.load(file), "few").training.local_epochs == 0


def test_an_override_may_contain_equal_signs_and_the_last_one_wins(file):
    assert loading.load(file, ["model.base=a", "model.base=b=c"]).model.base == "b=c"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("training.batchsize=3", "did you mean batch_size?"),
        ("data.sources.2.path=x", "data.sources has no '2'"),
        ("data.sources.path=x", "data.sources is not a table"),
        ("model.base.name=x", "model.base is not a table"),
        ("seed=three", "seed: "),
    ],
)
def test_overrides_that_cannot_be_used(file, override, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        loading.load(file, [override])


def test_another_algorithm_drops_the_keys_of_the_old_one(file):
    file.write_text(MINIMAL + '[aggregation]\nalgorithm = "fedprox"\nproximal_mu = 0.5\n')
    assert loading.load(file).aggregation == FedProx(algorithm="fedprox", proximal_mu=0.5)
    assert loading.load(file, ["aggregation.algorithm=fedprox"]).aggregation.proximal_mu == 0.5
    assert loading.load(file, ["aggregation.algorithm=fedavg"]).aggregation == FedAvg()
    switched = loading.load(file, ["aggregation.algorithm=fedadam", "aggregation.eta=0.1"])
    assert switched.aggregation == FedOpt(algorithm="fedadam", eta=0.1)


def test_the_order_of_algorithm_and_settings_does_not_matter(file):
    switched = loading.load(file, ["aggregation.trim=0.3", "aggregation.algorithm=trimmed-mean"])
    assert switched.aggregation == Robust(algorithm="trimmed-mean", trim=0.3)
    arms = {"arms": {"a": {"aggregation": {"trim": 0.3, "algorithm": "trimmed-mean"}}}}
    assert loading.arm(loading.validate(table() | arms), "a").aggregation == switched.aggregation


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_can_be_named_alone(file, name):
    more = ["aggregation.malicious=1"] if name == "bulyan" else []  # against 0 it is a plain mean
    aggregation = loading.load(file, [f"aggregation.algorithm={name}", *more]).aggregation
    assert aggregation.algorithm == name
    assert type(aggregation) is ALGORITHMS[name]


# --- arms and hash --------------------------------------------------------------------------------

ARMS = {
    "plain": {},
    "prox": {"aggregation": {"algorithm": "fedprox"}, "seed": 4},
    "dotted": {"training.learning_rate": 0.5},
}


def test_an_arm_is_the_recipe_with_its_overrides_and_name():
    whole = loading.validate(table() | {"arms": ARMS, "name": "study", "seed": 1})
    prox = loading.arm(whole, "prox")
    assert (prox.name, prox.seed, prox.arms) == ("prox", 4, {})
    assert prox.aggregation == FedProx(algorithm="fedprox")
    assert loading.arm(whole, "dotted").training.learning_rate == 0.5
    assert loading.arm(whole, "plain").seed == 1
    assert whole.seed == 1  # nothing is changed in place
    assert whole.aggregation == FedAvg()


def test_arms_that_cannot_be_used():
    whole = loading.validate(table() | {"arms": {"a": {"training": {"step": 1}}}})
    with pytest.raises(RecipeError, match=r"no arm 'b'; the recipe has: a"):
        loading.arm(whole, "b")
    with pytest.raises(RecipeError, match=r"arm 'a': unknown key training\.step"):
        loading.arm(whole, "a")
    with pytest.raises(RecipeError, match="the recipe has: none"):
        loading.arm(loading.validate(table()), "a")


def test_the_hash_is_that_of_the_resolved_recipe_without_its_arms(file):
    plain = loading.load(file)
    assert re.fullmatch("[0-9a-f]{64}", plain.hash)
    assert plain.hash == loading.load(file).hash
    assert loading.validate(table() | {"arms": ARMS}).hash == plain.hash
    assert loading.load(file, ["training.batch_size=16"]).hash == plain.hash  # the default, said
    assert loading.load(file, ["training.local_epochs=0"]).hash == plain.hash  # a later key
    assert loading.load(file, ["training.local_epochs=1"]).hash != plain.hash
    assert loading.load(file, ['vetting.action="off"']).hash == plain.hash  # likewise
    assert loading.load(file, ['vetting.action="record"']).hash != plain.hash
    assert loading.load(file, ["evaluation.outside=0"]).hash == plain.hash  # likewise
    assert loading.load(file, ["evaluation.outside=5"]).hash != plain.hash
    assert loading.load(file, ["constitution.mined_from=0"]).hash == plain.hash  # likewise
    mined = ["constitution.mined_from=64"]
    shared = ['constitution.examples=["fedrai:safe-answers"]', "constitution.mix.examples=0.2"]
    assert len({loading.load(file, o).hash for o in ([], mined, shared[:1], shared)}) == 4
    others = ["seed=1", "training.learning_rate=6e-5", "data.sources.0.harmful=true", "name=x"]
    hashes = {plain.hash} | {loading.load(file, [o]).hash for o in others}
    assert len(hashes) == 5


def test_the_hash_of_training_leaves_out_what_comes_after_it(file):
    plain = loading.load(file)
    after = ["name=x", "constitution.schedule=last", "constitution.steps=9", "evaluation.every=2",
             "evaluation.advbench=7", "tracking.kind=tensorboard"]  # fmt: skip
    assert {loading.load(file, [o]).training_hash for o in after} == {plain.training_hash}
    before = ["seed=1", "training.local_steps=11", "filter.mode=drop", "federation.rounds=2",
              "federation.mode=centralised", "aggregation.algorithm=fedadam", "data.max_length=99",
              "adapter.rank=8", "model.base=other", "data.harm.malicious_clients=1"]  # fmt: skip
    hashes = {loading.load(file, [o]).training_hash for o in before}
    assert len(hashes | {plain.training_hash}) == 11


def test_the_hash_does_not_depend_on_the_order_of_keys():
    shuffled = dict(reversed(table().items()))
    assert loading.validate(shuffled).hash == loading.validate(table()).hash


# --- writing --------------------------------------------------------------------------------------


def resolved(text: str) -> Recipe:
    return loading.validate(tomllib.loads(text))


@pytest.mark.parametrize("explained", [False, True])
def test_a_written_recipe_reads_the_same(explained):
    whole = loading.validate(
        table()
        | {
            "arms": ARMS,
            "aggregation": {"algorithm": "multi-krum", "malicious": 2, "selected": 3},
            "adapter": {"target_modules": ["q_proj"]},
        }
    )
    text = loading.to_toml(whole, explained=explained)
    assert resolved(text) == whole
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


text = st.text(min_size=1, max_size=20)
positive = st.floats(min_value=1e-9, max_value=1e9)


@given(
    base=text,
    path=text,
    share=st.none() | positive,
    rate=positive,
    seed=st.integers(0, 2**62),
    modules=st.just("all-linear") | st.lists(text, max_size=3),
    explained=st.booleans(),
)
def test_round_trip(base, path, share, rate, seed, modules, explained):
    whole = loading.validate(
        {
            "seed": seed,
            "model": {"base": base},
            "adapter": {"target_modules": modules},
            "data": {"sources": [{"path": path, **({"share": share} if share else {})}]},
            "training": {"learning_rate": rate},
        }
    )
    again = resolved(loading.to_toml(whole, explained=explained))
    assert again == whole
    assert again.hash == whole.hash


def test_an_explained_recipe_says_what_each_key_means(file):
    written = loading.to_toml(loading.load(file), explained=True)
    plain = loading.to_toml(loading.load(file))
    assert re.search(r"^# Rank of the two LoRA factors.*\nrank = 16$", written, re.M)
    assert "#" not in plain
    assert [line for line in written.splitlines() if line and line[0] != "#"] == [
        line for line in plain.splitlines() if line
    ]
    assert max(map(len, written.splitlines())) <= 100


def test_comments_are_above_their_keys_and_in_their_tables(file):
    whole = loading.load(file)
    lines = loading.to_toml(whole, explained=True).splitlines()
    for key in ("limit = 0", "judges = [", "guard_threshold = "):
        (place,) = [n for n, line in enumerate(lines) if line.startswith(key)]
        assert lines[place - 1].startswith("# "), key
    for table in ("[evaluation.paths]", "[guards]", "[arms]"):
        assert lines[lines.index(table) + 1].startswith("# "), table
    assert "# [evaluation.endpoint]   (not set)" in lines
    assert any("(MT-Bench" in line for line in lines)
    assert loading.validate(tomllib.loads("\n".join(lines))) == whole


def test_write_new(tmp_path, file):
    settings = loading.load(file)
    target = tmp_path / "new.toml"
    loading.write_new(target, settings)
    assert loading.load(target) == settings
    assert f"fedrai run {target}" in target.read_text()
    before = target.read_bytes()
    with pytest.raises(RecipeError, match="already exists"):
        loading.write_new(target, settings)
    assert target.read_bytes() == before
    with pytest.raises(RecipeError, match="cannot write"):
        loading.write_new(tmp_path / "no" / "folder.toml", settings)


# --- fields ---------------------------------------------------------------------------------------


def all_sections() -> list[type]:
    found: list[type] = [Recipe, *set(ALGORITHMS.values())]
    for section in found:
        found += [inner for _, inner in sections(section) if inner not in found]
    return found


def test_every_field_has_a_description():
    bare = [
        f"{section.__name__}.{name}"
        for section in all_sections()
        for name, field in section.model_fields.items()
        if not (field.description or "").strip().endswith(".")
    ]
    assert bare == []
    assert len(all_sections()) >= 15


def test_every_section_refuses_unknown_keys_and_changes():
    for section in all_sections():
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["frozen"], section


# --- the constitution -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("constitution.scedule", "full", "constitution.scedule (did you mean schedule?)"),
        ("constitution.probe.saf", 1, "constitution.probe.saf (did you mean safe?)"),
        ("constitution.schedule", "weekly", "constitution.schedule: expected 'off', 'full'"),
        ("constitution.steps", -1, "constitution.steps: expected 0 or more"),
        ("constitution.revising.threshold", 1.5, "a number from 0 to 1, got 1.5"),
        ("constitution.revising.guard", "labels", "a revision needs a guard that reads it"),
        ("constitution.critic", {"kind": "endpoint", "model": "m"}, "critic.url is needed"),
        ("constitution.critic", {"kind": "local"}, 'critic.model is needed when kind is "local"'),
        ("constitution.mix", {"rows": 0}, "mix: a step needs rows or pairs"),
        ("constitution.mix", {"refusals": 0.7, "look_alikes": 0.4}, "sum must be at most 1"),
    ],
)
def test_constitutions_that_are_refused(key, value, said):
    assert said in problem(changed(key, value))


def test_local_mode_has_nothing_to_align():
    whole = changed("federation.mode", "local")
    whole["constitution"] = {"steps": 3}
    assert loading.validate(whole).constitution.schedule == "off"
    whole["constitution"]["schedule"] = "last"
    assert "there is no aggregated model" in problem(whole)


def test_an_anchor_needs_a_start_only_in_an_alignment():
    whole = table()
    whole["constitution"] = {"anchor": 0.5}
    assert loading.validate(whole).constitution.anchor == 0.5
    whole["constitution"]["schedule"] = "last"
    assert "constitution.anchor needs adapter.start" in problem(whole)


def test_zero_steps_need_an_anchor():
    whole = table() | {"constitution": {"schedule": "last", "steps": 0}}
    assert "steps = 0 changes nothing without anchor" in problem(whole)
    for changes in ({"anchor": 0.5}, {"schedule": "full"}, {"schedule": "off"}):
        given = {**whole, "adapter": {"start": "fedrai:aligned"}}
        given["constitution"] = whole["constitution"] | changes
        assert loading.validate(given).constitution.steps == 0


def test_arms_may_differ_in_their_constitution():
    whole = table()
    whole["arms"] = {"both": {"constitution": {"schedule": "adaptive", "probe": {"drift": 0.2}}}}
    found = loading.arm(loading.validate(whole), "both").constitution
    assert (found.schedule, found.probe.drift, found.probe.safe) == ("adaptive", 0.2, 0.9)


def test_alignment_recipes_have_their_own_names(tmp_path, monkeypatch):
    (tmp_path / "src" / "fedrai").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    for name in ("plain", "align_small"):
        (tmp_path / "recipes" / f"{name}.toml").write_text('[model]\nbase = "x"\n')
    monkeypatch.setattr(
        loading, "__file__", str(tmp_path / "src" / "fedrai" / "recipe" / "loading.py")
    )
    assert list(loading.shipped()) == ["plain"]
    assert list(loading.shipped(alignments=True)) == ["align_small"]
    assert loading.load_alignment(Path("align_small")).model.base == "x"
    with pytest.raises(RecipeError, match="no recipe at plain") as caught:
        loading.load_alignment(Path("plain"))
    assert "shipped recipes: align_small" in caught.value.hint


@pytest.mark.parametrize("name", sorted(loading.shipped(alignments=True)))
def test_shipped_alignments_load(name):
    assert loading.load_alignment(Path(name)).constitution.schedule in ("budget", "full")


# --- shipped recipes ------------------------------------------------------------------------------


def test_recipes_named_in_the_documents_are_shipped():
    assert {"quickstart", "paper", "consortium"} <= set(loading.shipped())


@pytest.mark.parametrize("name", sorted(loading.shipped()))
def test_shipped_recipes_load(name):
    loaded = loading.load(Path(name))
    assert loaded == loading.load(Path(f"{name}.toml")) == loading.load(loading.shipped()[name])
    for arm in loaded.arms:
        assert loading.arm(loaded, arm).name == arm


def test_a_file_has_priority_over_a_shipped_recipe(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    file.rename(tmp_path / "quickstart")
    assert loading.load(Path("quickstart")).model.base == "some/model"
    with pytest.raises(RecipeError, match="no recipe at"):
        loading.load(tmp_path / "elsewhere" / "quickstart.toml")


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_differ_by_purpose_round_and_client():
    uses = [(p, r, c) for p in ("order", "dropout") for r in range(20) for c in ("", "a", "b")]
    seeds = {seed_for(s, *use) for s in (0, 1) for use in uses}
    assert len(seeds) == 2 * len(uses)


def test_a_seed_is_the_same_everywhere():
    """First 8 bytes of `printf '[0, "order", 3, "client-01"]' | sha256sum`, without one bit."""
    assert seed_for(0, "order", 3, "client-01") == 0x9F6C545ED534054A >> 1


@given(st.integers(0, 2**63), st.text(max_size=9), st.integers(0, 10**6), st.text(max_size=9))
def test_seeds_have_63_bits(seed, purpose, round_, client):
    assert 0 <= seed_for(seed, purpose, round_, client) < 2**63


def test_seeds_use_all_their_bits():
    drawn = [seed_for(0, "order", r) for r in range(200)]
    assert all(any(s >> bit & 1 for s in drawn) for bit in range(63))
    assert all(not all(s >> bit & 1 for s in drawn) for bit in range(63))


def test_a_recipes_seeds_are_those_of_its_seed(file):
    loaded = loading.load(file, ["seed=5"])
    assert loaded.seed_for("order", 2, "a") == seed_for(5, "order", 2, "a")
