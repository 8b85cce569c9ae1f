"""Adapters that PEFT wrote: each is followed as PEFT itself does, or refused by its setting."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedrai.errors import ModelError
from fedrai.federation.run.targets import target
from fedrai.model import (
    LanguageModel,
    LoadOptions,
    Lora,
    load,
    read_adapter_config,
    read_lora,
    read_start_adapter,
)
from fedrai.release.export import ExportOptions, export

IDS = torch.tensor([[1, 90, 91, 92, 201, 2, 30]])
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NOISE = ("ignore::UserWarning", "ignore:.is_gradient_checkpointing:FutureWarning")
pytestmark = [pytest.mark.filterwarnings(text) for text in NOISE]


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Path:
    return tiny_model


def write(base: Path, folder: Path, options: Mapping[str, Any], seed: int = 0) -> Tensor:
    """Let PEFT write an adapter whose every tensor counts; gives PEFT's own logits."""
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM"} | dict(options))
    wrapped = get_peft_model(plain, config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "original_module" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=draw) / 8)
    wrapped.save_pretrained(folder)
    return oracle(base, folder)


def oracle(base: Path, folder: Path) -> Tensor:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(plain, folder).eval()(IDS).logits


def ours(lm: LanguageModel, adapter: Mapping[str, Tensor]) -> Tensor:
    lm.load_adapter(adapter)
    with torch.no_grad(), lm.mode(training=False):
        return lm.logits(IDS, torch.ones_like(IDS)).float()


def last(lm: LanguageModel) -> Tensor:
    """Logits of the next token as generation computes them."""
    places = torch.arange(IDS.shape[1])[None]
    with torch.no_grad(), lm.mode(training=False):
        return lm.next_logits(IDS, torch.ones_like(IDS), places, None)[0].float()


def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrai.model.loading.pick_dtype", lambda *_: torch.float32)


PATTERNS = st.dictionaries(
    st.sampled_from([*LINEAR, r"layers\.0\.self_attn\.q_proj", r"^model\.layers\.1\..*up_proj"]),
    st.integers(1, 9),
    max_size=2,
)
FOLLOWED = st.fixed_dictionaries(
    {"r": st.integers(1, 8), "lora_alpha": st.sampled_from([1, 7, 32, 2.5])},
    optional={
        "use_rslora": st.booleans(),
        "rank_pattern": PATTERNS,
        "alpha_pattern": PATTERNS,
        "exclude_modules": st.sampled_from([["k_proj"], r".*layers\.0\.mlp.*"]),
        "fan_in_fan_out": st.booleans(),
        "lora_dropout": st.sampled_from([0.0, 0.3]),
        "init_lora_weights": st.sampled_from([True, False, "gaussian"]),
    },
)
LAYERS = st.one_of(
    st.lists(st.sampled_from(LINEAR), min_size=2, max_size=4, unique=True).map(
        lambda names: {"target_modules": names}
    ),
    st.sampled_from(["all-linear", r".*layers\.1\..*(q_proj|down_proj)"]).map(
        lambda names: {"target_modules": names}
    ),
    st.sampled_from([[0], [1], 0]).map(
        lambda layers: {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": layers}
    ),
    st.just({"target_modules": ["q_proj", "lm_head"]}),
    st.just({}),
)
REFUSED = {
    "use_dora": True,
    "lora_bias": True,
    "bias": "lora_only",
    "modules_to_save": ["norm"],
    "trainable_token_indices": [1, 2],
    "layer_replication": [[0, 2], [1, 2]],
    "init_lora_weights": "pissa",
    "target_parameters": ["q_proj.weight"],
}


@settings(max_examples=25, phases=(Phase.explicit, Phase.generate))
@given(options=FOLLOWED, layers=LAYERS, seed=st.integers(0, 99))
def test_what_is_followed_gives_pefts_own_logits(
    options: dict[str, Any], layers: dict[str, Any], seed: int, base: Path
) -> None:
    if isinstance(layers.get("target_modules"), str):
        options.pop("exclude_modules", None)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        float32(patch)
        folder = Path(place) / "adapter"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = write(base, folder, options | layers, seed)
        except (ValueError, RuntimeError):
            return  # PEFT finds no layer, or cannot read what it wrote: it sorts the patterns
        loaded = target(str(folder))
        assert loaded.adapter is not None
        mine = ours(loaded.model, loaded.adapter)
        assert torch.allclose(mine, theirs, atol=1e-3), (mine - theirs).abs().max()
        assert torch.allclose(last(loaded.model), theirs[:, -1], atol=1e-3)
        export(folder, Path(place) / "merged", ExportOptions(merged=True))
        merged = AutoModelForCausalLM.from_pretrained(Path(place) / "merged", dtype=torch.float32)
        with torch.no_grad():
            assert torch.allclose(merged(IDS).logits, theirs, atol=1e-3)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_what_is_not_followed_is_named(key: str, base: Path, tmp_path: Path) -> None:
    write(base, tmp_path, {"target_modules": ["q_proj"]})
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: REFUSED[key]}))
    merged = ExportOptions(merged=True)
    for command in (target, lambda spec: export(Path(spec), tmp_path / "out", merged)):
        with pytest.raises(ModelError, match=f"not a plain LoRA: it sets {key}") as error:
            command(str(tmp_path))
        assert "merge it into its base model" in error.value.hint


@pytest.mark.parametrize("key", ["use_dora", "lora_bias", "modules_to_save", "bias"])
def test_what_is_refused_would_have_said_something_else(
    key: str, base: Path, tmp_path: Path
) -> None:
    """The refusals are no mere caution: PEFT's logits with the setting are others."""
    value = {"bias": "lora_only"}.get(key, REFUSED[key])
    theirs = write(base, tmp_path, {"target_modules": ["q_proj"], key: value})
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {key: {"bias": "none"}.get(key)}))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    factors = {n: t for n, t in tensors.items() if n.endswith(("lora_A.weight", "lora_B.weight"))}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    if key != "bias":  # a Llama has no biases, so there that setting happens to change nothing
        assert not torch.allclose(oracle(base, tmp_path), theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"peft_type": "IA3"}, "PEFT's kind IA3, expected LORA"),
        ({"r": 0}, "r = 0, expected a whole number"),
        ({"r": "4"}, "r = '4', expected"),
        ({"r": None}, "r = None"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"target_modules": 3}, "target_modules = 3"),
        ({"use_something_of_peft_0_99": True}, "it sets use_something_of_peft_0_99"),
        ({"init_lora_weights": ["odd"]}, "it sets init_lora_weights"),
        ({"layers_pattern": "layers"}, "PEFT rejects the adapter's settings"),
    ],
)
def test_configs_that_cannot_be_followed(
    change: dict[str, Any], problem: str, base: Path, tmp_path: Path
) -> None:
    write(base, tmp_path, {"target_modules": ["q_proj"]})
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=problem):
        target(str(tmp_path))


def test_a_config_that_is_no_table(tmp_path: Path) -> None:
    for text in ("[]", "3", "{", "[" * 100_000):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"adapter_config\.json"):
            read_adapter_config(tmp_path)


def test_scales_by_hand(base: Path) -> None:
    """Rank 4, alpha 8: 2 each; of rsLoRA 8 / sqrt(4) = 4; a pattern's own alpha 256 / 4 = 64."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    scales = {}
    for name, more in {"plain": {}, "rs": {"use_rslora": True},
                       "pattern": {"alpha_pattern": {"q_proj": 256}}}.items():  # fmt: skip
        lm = load(str(base), read_lora(config | more, "a"), LoadOptions(dtype="float32"))
        layer = lm.base.model.layers[0].self_attn
        scales[name] = (layer.q_proj.scaling["default"], layer.v_proj.scaling["default"])
    assert scales == {"plain": (2, 2), "rs": (4, 4), "pattern": (64, 2)}


def test_a_start_adapter_of_another_scale_is_refused(base: Path, tmp_path: Path) -> None:
    lm = load(
        str(base), Lora(rank=4, alpha=8, target_modules=["q_proj"]), LoadOptions(dtype="float32")
    )
    for more in ({"use_rslora": True}, {"alpha_pattern": {"q_proj": 256}}):
        write(base, tmp_path, {"target_modules": ["q_proj"], "lora_alpha": 8, **more})
        with pytest.raises(ModelError, match=f"not a plain LoRA: it sets {next(iter(more))}"):
            read_start_adapter(str(tmp_path), lm)


def test_an_adapter_of_the_output_layer_trains_and_speaks_on_the_right_loss(base: Path) -> None:
    """Hidden states times the output layer would pass over its adapter."""
    lm = load(str(base), Lora(4, 8, ["lm_head"]), LoadOptions(dtype="float32"))
    assert not lm.fused
    state = {name: torch.ones(p.shape) / 4 for name, p in lm.parameters.items()}
    plain = ours(lm, lm.fresh_adapter(0))
    assert (ours(lm, state) - plain).abs().max() > 0.1
    assert torch.allclose(last(lm), ours(lm, state)[:, -1], atol=1e-5)


def test_a_weight_of_the_base_itself_is_refused(base: Path, tmp_path: Path) -> None:
    write(base, tmp_path, {"target_modules": ["q_proj", "lm_head"]})
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    copies = [name for name in tensors if "base_layer" in name]
    assert copies  # PEFT keeps the output layer beside its adapter
    save_file(tensors | {copies[0]: tensors[copies[0]] + 1}, file)
    with pytest.raises(ModelError, match="changes a weight of the base model itself"):
        target(str(tmp_path))


def test_adapters_lie_on_linear_layers_only(base: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.embed_tokens is not linear") as error:
        load(str(base), Lora(target_modules=["q_proj", "embed_tokens"]))
    assert error.value.hint == "leave it out of adapter.target_modules"


def test_what_was_read_is_written_again(base: Path, tmp_path: Path) -> None:
    """An aligned or exported adapter keeps the scale of the one that it came from."""
    options = {"target_modules": ["q_proj", "up_proj"], "use_rslora": True,
               "alpha_pattern": {"up_proj": 3}, "exclude_modules": ["k_proj"]}  # fmt: skip
    theirs = write(base, tmp_path / "one", options)
    loaded = target(str(tmp_path / "one"))
    loaded.model.save_adapter(tmp_path / "two", loaded.adapter)
    assert torch.allclose(oracle(base, tmp_path / "two"), theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop(sorted(t)[0]), "does not fit the model: it misses "),
        (lambda t: t.update({"base_model.model.odd.lora_A.weight": torch.zeros(2, 2)}),
         r"does not fit the model: it has base_model\.model\.odd"),
        (lambda t: t.update({sorted(t)[0]: torch.zeros(4, 9)}), r"is \(4, 9\), expected"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named_at_once(
    change: Callable[[dict[str, Tensor]], object], problem: str, base: Path, tmp_path: Path
) -> None:
    write(base, tmp_path, {"target_modules": ["q_proj"]})
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ModelError, match=problem):
        target(str(tmp_path))
