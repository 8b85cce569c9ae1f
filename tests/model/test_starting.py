"""Training from an adapter that exists: `adapter.start`, and `fedrai:aligned` in every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from driver import fill_cache, write_recipe
from fedrai import recipe
from fedrai.cli import main
from fedrai.data import embedded
from fedrai.errors import AssetError, ModelError, RecipeError, RunError
from fedrai.federation.plan import GLOBAL, load_adapters
from fedrai.federation.run import local, preparation, standalone
from fedrai.model import (
    EMBEDDED,
    AdapterState,
    LanguageModel,
    LoadOptions,
    Lora,
    adapter_folder,
    load,
    read_adapter,
    read_start_adapter,
    save_shards,
)
from fedrai.recipe.sections import AlignRecipe
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of

SIZES = ("--advbench", "3", "--ordinary", "2", "--max-new-tokens", "3")


@pytest.fixture(scope="module")
def whole(tiny: LanguageModel) -> AdapterState:
    """An adapter that changes what the model says, as bfloat16 holds it."""
    draw = torch.Generator().manual_seed(3)
    return {
        name: (torch.randn(p.shape, generator=draw) / 4).bfloat16().float()
        for name, p in tiny.parameters.items()
    }


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    tiny: LanguageModel,
    whole: AdapterState,
) -> Path:
    """Where commands run: a recipe, its rows, a cache, the model, and an adapter in shards."""
    folder = tmp_path_factory.mktemp("start")
    fill_cache(folder / "cache")
    write_recipe(folder, tiny_model)
    (folder / "tiny").symlink_to(tiny_model)
    tiny.save_adapter(folder / "aligned", whole)
    save_shards(folder / "aligned", whole, torch.bfloat16, 4_000)
    assert len(list((folder / "aligned").glob("*-of-*.safetensors"))) > 1
    return folder


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process; gives its code, output and errors."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FEDRAI_CACHE", str(folder / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    monkeypatch.setitem(EMBEDDED, "fedrai:aligned", folder / "aligned")

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["fedrai", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return stop.value.code, shown.out, shown.err

    return run


Call = Callable[..., tuple[object, str, str]]
RUN = ("run", "tiny.toml", "-o", "federation.rounds=1", "-o", "adapter.start=fedrai:aligned")


# --- whether it fits ------------------------------------------------------------------------------


def test_an_adapter_that_fits(tiny: LanguageModel, folder: Path, whole: AdapterState) -> None:
    found = read_start_adapter(str(folder / "aligned"), tiny)
    assert digest_of(found) == digest_of(whole)


@pytest.mark.parametrize(
    ("key", "value", "problem", "hint"),
    [
        ("r", 8, "has rank 8, [adapter] has 4", "set adapter.rank = 8"),
        ("lora_alpha", 5, "has alpha 5, [adapter] has 32", "set adapter.alpha = 5"),
        ("base_model_name_or_path", "org/Other@1", "belongs to org/Other@1", "set model.base"),
        ("use_rslora", True, "not a plain LoRA: it sets use_rslora", ""),
        ("rank_pattern", {"q_proj": 2}, "not a plain LoRA: it sets rank_pattern", ""),
    ],
)
def test_a_config_that_does_not_fit(
    key: str, value: object, problem: str, hint: str,
    tiny: LanguageModel, folder: Path, whole: AdapterState, tmp_path: Path,
) -> None:  # fmt: skip
    config = json.loads((folder / "aligned" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    save_shards(tmp_path, whole, torch.float32)
    with pytest.raises(ModelError) as error:
        read_start_adapter(str(tmp_path), tiny)
    assert problem in error.value.message
    assert error.value.hint.startswith(hint)


def test_a_start_of_fewer_ranks_keeps_its_product(
    folder: Path, tiny_model: Path, whole: AdapterState
) -> None:
    """Rules that add up products need ranks above those of the start (`adapter.ranks`)."""
    wide = load(str(tiny_model), Lora(rank=6, alpha=48), LoadOptions(dtype="float32"))
    start = read_start_adapter(str(folder / "aligned"), wide)  # rank 4, alpha 32
    assert digest_of(start) == digest_of(read_start_adapter(str(folder / "aligned"), wide))
    for layer in {name.rsplit(".lora_", 1)[0] for name in whole}:
        first, second = start[f"{layer}.lora_A.weight"], start[f"{layer}.lora_B.weight"]
        torch.testing.assert_close(
            second @ first, whole[f"{layer}.lora_B.weight"] @ whole[f"{layer}.lora_A.weight"]
        )
        assert first[4:].abs().min() > 0  # a row of zeros could learn nothing
    other = load(str(tiny_model), Lora(rank=6, alpha=32), LoadOptions(dtype="float32"))
    with pytest.raises(ModelError, match=r"has rank 4, \[adapter\] has 6"):  # another scale
        read_start_adapter(str(folder / "aligned"), other)


@pytest.mark.parametrize("name", ["tiny", "org/Tiny", "some/where/tiny/", "org/tiny@v2", "", None])
def test_names_of_the_same_base(
    name: str | None, tiny: LanguageModel, folder: Path, whole: AdapterState, tmp_path: Path
) -> None:
    config = json.loads((folder / "aligned" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = name
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_shards(tmp_path, whole, torch.float32)
    assert digest_of(read_start_adapter(str(tmp_path), tiny)) == digest_of(whole)


def test_an_adapter_of_other_layers(folder: Path, tiny_model: Path) -> None:
    other = load(
        str(tiny_model), Lora(rank=4, target_modules=["q_proj"]), LoadOptions(dtype="float32")
    )
    with pytest.raises(ModelError, match="does not fit the model: it has") as error:
        read_start_adapter(str(folder / "aligned"), other)
    assert "adapter.target_modules" in error.value.hint


def test_adapters_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"expected adapter_config\.json"):
        adapter_folder(str(tmp_path))
    with pytest.raises(AssetError, match="no adapter fedrai:other") as error:
        adapter_folder("fedrai:other")
    assert error.value.hint == "available: fedrai:aligned"
    assert EMBEDDED["fedrai:aligned"].parent == embedded.HERE
    monkeypatch.setitem(EMBEDDED, "fedrai:aligned", tmp_path / "none")
    with pytest.raises(AssetError, match="not part of this installation"):
        adapter_folder("fedrai:aligned")


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_starts_from_it(
    call: Call, folder: Path, tiny: LanguageModel, whole: AdapterState
) -> None:
    code, out, err = call(*RUN, "--out", "runs/start")
    assert code == 0, err
    assert "fedrai:aligned" in out
    assert "base model" not in out
    run = RunFolder.open(folder / "runs" / "start")
    assert run.info["start_sha256"] == digest_of(whole)
    settings = recipe.load(run.path / "recipe.toml")
    prepared = local.prepare(settings, loaded=tiny)
    first = load_adapters(run, tiny, preparation.plan_for(settings, 3), 0)[GLOBAL]
    assert digest_of(first) == digest_of(whole)
    measured = preparation.measure_adapters(tiny, prepared.questions, [whole], lambda *_: None)
    fresh = preparation.measure_adapters(
        tiny, prepared.questions, [tiny.fresh_adapter(0)], lambda *_: None
    )
    before = run.read_json("evaluations/0000/metrics.json")["held_out_loss"]
    assert before == pytest.approx(measured.held_out_loss, abs=1e-6)
    assert abs(before - fresh.held_out_loss) > 1e-3
    moved = read_adapter(run.round_folder(1) / "adapter")
    steps = max(float((moved[name] - whole[name]).abs().max()) for name in whole)
    assert 0 < steps < 0.2  # three steps at a learning rate of 0.02 from there


def test_a_misfit_leaves_no_run_folder(call: Call, folder: Path) -> None:
    code, _, err = call(*RUN, "-o", "adapter.rank=2", "--out", "runs/misfit")
    assert code == 2
    assert err == (
        "error: adapter.start = 'fedrai:aligned' has rank 4, [adapter] has 2\n"
        "  set adapter.rank = 4\n"
    )
    assert not (folder / "runs" / "misfit").exists()


@pytest.mark.parametrize("command", ["run", "eval", "chat", "export"])
def test_an_adapter_of_broken_numbers_says_so_at_once(
    command: str, call: Call, folder: Path, tiny: LanguageModel, whole: AdapterState
) -> None:
    """As a start it made every client answer `task-not-understood`."""
    broken = {name: tensor.clone() for name, tensor in whole.items()}
    name = sorted(broken)[3]
    broken[name][0, 0] = float("nan")
    tiny.save_adapter(folder / "broken", broken)
    words = {
        "run": ("run", "tiny.toml", "-o", "adapter.start=broken", "--out", "runs/broken"),
        "export": ("export", "broken", "--out", "runs/broken"),
    }.get(command, (command, "broken"))
    code, _, err = call(*words)
    assert code == 2
    assert f"{name} holds values that are not finite" in err
    assert len(err.splitlines()) <= 2
    assert not (folder / "runs" / "broken").exists()


def test_a_pickled_start_adapter_says_so(call: Call, folder: Path, whole: AdapterState) -> None:
    shutil.copytree(folder / "aligned", folder / "pickled")
    for file in (folder / "pickled").glob("*.safetensors*"):
        file.unlink()
    torch.save(whole, folder / "pickled" / "adapter_model.bin")
    for command in (("eval", "pickled"), ("run", "tiny.toml", "-o", "adapter.start=pickled",
                                          "--out", "runs/pickled")):  # fmt: skip
        code, _, err = call(*command)
        assert code == 2
        assert "adapter_model.bin is a pickle, which can run code and is not loaded" in err
    assert not (folder / "runs" / "pickled").exists()


def test_resuming_with_another_adapter_is_refused(
    call: Call, folder: Path, tiny: LanguageModel, whole: AdapterState,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    call(*RUN, "--out", "runs/cut")
    events = folder / "runs" / "cut" / "events.jsonl"
    events.write_text(events.read_text().replace('"finished"', '"cut"'))
    other = {name: tensor + 1 for name, tensor in whole.items()}
    tiny.save_adapter(folder / "other", other)
    monkeypatch.setitem(EMBEDDED, "fedrai:aligned", folder / "other")
    code, _, err = call("run", "--resume", "runs/cut")
    assert code == 2
    assert err.startswith(
        "error: runs/cut cannot be resumed: the adapter that training starts from (adapter.start)"
        " changed since the run began\n"
    )
    run = RunFolder.open(folder / "runs" / "cut")
    plan = preparation.plan_for(recipe.load(run.path / "recipe.toml"), 3)
    with pytest.raises(RunError, match="no longer the adapter that the run started from"):
        load_adapters(run, tiny, plan, 0)


ARMS = """
[arms.fresh]
[arms.aligned.adapter]
start = "fedrai:aligned"
[arms.again]
adapter.start = "aligned"
training.learning_rate = 0.01
"""


def test_arms_share_the_first_evaluation_only_from_the_same_start(
    call: Call, folder: Path, tiny_model: Path
) -> None:
    arms = write_recipe(folder / "arms", tiny_model, ARMS)
    code, _, err = call("compare", str(arms), "-o", "federation.rounds=1", "--out", "runs/arms")
    assert code == 0, err
    losses = {
        arm: RunFolder.open(folder / "runs" / "arms" / arm).read_json(
            "evaluations/0000/metrics.json"
        )
        for arm in ("fresh", "aligned", "again")
    }
    assert losses["fresh"]["held_out_loss"] != losses["aligned"]["held_out_loss"]
    assert losses["again"]["held_out_loss"] == losses["aligned"]["held_out_loss"]
    assert losses["fresh"]["costs"]
    assert losses["aligned"]["costs"]
    assert losses["again"]["costs"] == {}  # taken over: another name of the same adapter


# --- the other commands ---------------------------------------------------------------------------


def test_eval_and_chat_of_the_aligned_model(call: Call, tiny: LanguageModel) -> None:
    code, out, err = call("eval", "fedrai:aligned", *SIZES, "--json")
    assert code == 0, err
    found, plain = json.loads(out), json.loads(call("eval", "tiny", *SIZES, "--json")[1])
    assert found["model"] == "fedrai:aligned"
    assert found["held_out_loss"] != plain["held_out_loss"]
    code, out, err = call("chat", "fedrai:aligned", "--prompt", "item 7?", "--max-new-tokens", "3")
    assert code == 0, err
    assert "tuned>" in out


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_export_makes_an_ordinary_folder_of_it(
    call: Call, folder: Path, tiny_model: Path, tiny: LanguageModel, whole: AdapterState
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    code, out, err = call("export", "fedrai:aligned")
    assert (code, out) == (0, "adapter: aligned-adapter\n"), err
    target = folder / "aligned-adapter"
    names = sorted(file.name for file in target.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "base.json"]
    assert digest_of(read_adapter(target)) == digest_of(whole)
    ids = torch.tensor([[1, 90, 91, 92, 201, 2, 30]])
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, target)(ids).logits
        tiny.load_adapter(whole)
        assert torch.allclose(theirs, tiny.base(ids).logits, atol=1e-5)
    assert call("export", "aligned", "--out", "from-folder")[0] == 0
    assert digest_of(read_adapter(folder / "from-folder")) == digest_of(whole)


ALIGNMENT = """name = "words"
[model]
base = "tiny"
[constitution.revising]
guard = "words"
threshold = 0.5
harmless_threshold = 0.5
[guards.words]
kind = "rules"
words = ["never"]
"""


def test_an_alignment_starts_from_it(call: Call, folder: Path, whole: AdapterState) -> None:
    file = folder / "words.toml"
    file.write_text(ALIGNMENT)
    changes = ("model.dtype=float32", "max_length=96")

    def settings_for(base: str, *more: str) -> AlignRecipe:
        return recipe.load_alignment(file, (*changes, *more), [("model.base", base)])

    job = standalone.prepare(settings_for("fedrai:aligned"))
    assert digest_of(job.start) == digest_of(whole)
    assert job.info()["start"] == "fedrai:aligned"
    start = ("adapter.rank=4", "adapter.start=fedrai:aligned")
    other = standalone.prepare(settings_for("tiny", *start))
    assert digest_of(other.start) == digest_of(whole)
    assert other.info()["start"] == "tiny with fedrai:aligned"
    both = settings_for("fedrai:aligned", "adapter.start=aligned")
    with pytest.raises(RecipeError, match=r"adapter\.start is 'aligned'"):
        standalone.prepare(both)


def test_commands_without_the_adapter_say_so(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EMBEDDED, "fedrai:aligned", folder / "nothing")
    for command in (("eval", "fedrai:aligned"), ("export", "fedrai:aligned", "--out", "no"),
                    (*RUN, "--out", "no")):  # fmt: skip
        code, _, err = call(*command)
        assert code == 2
        assert err.startswith("error: fedrai:aligned is not part of this installation\n")
    assert not (folder / "no").exists()
