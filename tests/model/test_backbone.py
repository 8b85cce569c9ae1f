"""Bodies of models: the hidden states of transformers, fewer layers, and bases that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BartModel,
    GPT2Config,
    GPT2Model,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
)
from transformers.utils import logging

from fedrai.errors import ModelError
from fedrai.model import Backbone, Lora, load_backbone
from fedrai.testing import tiny_tokenizer
from tiny_guards import encoder

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32, "vocab_size": 300}  # fmt: skip
IDS = torch.tensor([[5, 9, 12, 20, 7], [6, 8, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("bert") / "tiny")


def backbone(folder: Path, **options: Any) -> Backbone:
    lora = Lora(rank=options.pop("rank", 2), alpha=16)
    return load_backbone(str(folder), lora, **({"dtype": "float32"} | options))


@torch.no_grad()
def hidden(body: Backbone) -> torch.Tensor:
    """At real tokens only, (8, D)."""
    return body.hidden(IDS, MASK)[MASK.bool()]


@torch.no_grad()
def plainly(folder: Path, layer: int) -> torch.Tensor:
    """States after a layer of the whole model and its final norm, if it has one, (8, D)."""
    model = AutoModel.from_pretrained(folder).eval()
    states = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    found = states[layer]
    if layer < len(states) - 1 and hasattr(model, "norm"):  # the last is behind the norm already
        found = model.norm(found)
    return found[MASK.bool()]


# --- hidden states --------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["tiny_model", "bert"])
def test_the_first_layers_are_those_of_the_whole_model(kind, layers, request):
    folder = request.getfixturevalue(kind)
    body = backbone(folder, layers=layers)
    assert torch.allclose(hidden(body), plainly(folder, layers), atol=1e-6)
    assert body.shape().layers == layers


@pytest.mark.parametrize("kind", ["tiny_model", "bert"])
def test_all_layers(kind, request):
    folder = request.getfixturevalue(kind)
    assert torch.equal(hidden(backbone(folder)), hidden(backbone(folder, layers=2)))
    one = hidden(backbone(folder, layers=1))
    assert not torch.allclose(one, hidden(backbone(folder)), atol=1e-2)


def test_more_layers_than_there_are(tiny_model):
    with pytest.raises(ModelError, match="has 2 layers, expected 3"):
        backbone(tiny_model, layers=3)


def test_padding_does_not_matter(tiny_model, bert):
    for folder in (tiny_model, bert):
        body = backbone(folder)
        ids, mask = (torch.nn.functional.pad(t, (0, 27)) for t in (IDS, MASK))
        with torch.no_grad():
            wide = body.hidden(ids, mask)[:, :5][MASK.bool()]
        assert torch.allclose(wide, hidden(body), atol=1e-6)


# --- what it is -----------------------------------------------------------------------------------


def test_which_bodies_look_back_only(tiny_model, bert, tmp_path):
    assert backbone(tiny_model).causal
    assert not backbone(bert).causal
    logging.disable_progress_bar()
    LlamaModel.from_pretrained(tiny_model).save_pretrained(tmp_path)  # without "ForCausalLM"
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "ForCausalLM" not in (tmp_path / "config.json").read_text()
    body = backbone(tmp_path)
    assert body.causal
    assert torch.equal(hidden(body), hidden(backbone(tiny_model)))


def test_positions(tiny_model, bert, tmp_path):
    assert backbone(tiny_model).positions == 256
    assert backbone(bert).positions == 64
    config = RobertaConfig(**SIZES, max_position_embeddings=42, pad_token_id=1)
    RobertaModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    body = backbone(tmp_path)
    assert body.positions == 40  # two stand before the first
    body.hidden(torch.full((1, 40), 5), torch.ones(1, 40, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        body.hidden(torch.full((1, 41), 5), torch.ones(1, 41, dtype=torch.long))


def test_weights_by_hand(bert):
    body = backbone(bert, rank=3)
    assert body.width == 16
    layer = 4 * 16 * 16 + 2 * 16 * 32  # query, key, value, output; up and down
    adapter = 4 * 3 * (16 + 16) + 2 * 3 * (16 + 32)
    shape = body.shape()
    assert (shape.block_weights, shape.adapter_weights) == (2 * layer, 2 * adapter)
    assert (shape.output_weights, shape.attention_size) == (0, 16)


def test_only_the_adapter_learns(tiny_model, bert):
    for folder in (tiny_model, bert):
        body = backbone(folder)
        body.load_adapter(body.fresh_adapter(1))
        trained = [n for n, p in body.peft.named_parameters() if p.requires_grad]
        assert len(trained) == len(body.parameters) > 0
        assert all("lora_" in name for name in trained)
        with body.mode(training=True):
            body.hidden(IDS, MASK)[MASK.bool()].square().mul(
                torch.arange(1, 9)[:, None]
            ).sum().backward()
        grown = {n for n, p in body.parameters.items() if p.grad is not None and p.grad.any()}
        assert grown == {n for n in body.parameters if "lora_B" in n}  # A waits for B


def test_an_adapter_of_another_rank(bert):
    state = backbone(bert, rank=2).adapter()
    with pytest.raises(ModelError, match="does not fit the model"):
        backbone(bert, rank=3).load_adapter(state)
    with pytest.raises(ModelError, match="does not fit the model: it has"):
        backbone(bert, rank=2, layers=1).load_adapter(state)


# --- bases that are none --------------------------------------------------------------------------


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        backbone(folder)
    assert "\n" not in caught.value.message
    return caught.value


def test_folders_that_hold_no_model(bert, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded as a model" in refused(tmp_path / "empty").message
    cut = copy(bert, tmp_path / "cut")
    whole = (bert / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "config.json, *.safetensors" in refused(cut).hint
    bare = copy(bert, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    assert "cannot be loaded" in refused(bare).message
    torn = copy(bert, tmp_path / "torn")
    (torn / "config.json").write_text("{")
    assert "cannot be loaded" in refused(torn).message


def test_weights_of_another_model(bert, tiny_model, tmp_path):
    mixed = copy(bert, tmp_path / "mixed")
    (mixed / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    assert "of BertModel are missing and would be random" in refused(mixed).message
    deeper = copy(bert, tmp_path / "deeper")
    config = json.loads((bert / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "16 weights of BertModel are missing" in refused(deeper).message
    wider = copy(bert, tmp_path / "wider")
    (wider / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    refused(wider)


def test_kinds_that_cannot_be_used(tmp_path):
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 300,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
    BartModel(BartConfig(**small)).save_pretrained(tmp_path / "bart")
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=300, bos_token_id=1,
                        eos_token_id=2)  # fmt: skip
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    for name in ("bart", "gpt2"):
        tiny_tokenizer().save_pretrained(tmp_path / name)
    assert "encoder-decoder" in refused(tmp_path / "bart").message
    assert "no linear layer" in refused(tmp_path / "gpt2").message
