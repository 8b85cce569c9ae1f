"""The aligned adapter that comes along: whole, small, and the one that the quickstart asks for."""

from pathlib import Path

import torch

from fedrai import recipe
from fedrai.data import embedded
from fedrai.model import read_adapter, read_adapter_config
from fedrai.model.starting import adapter_folder

FOLDER = embedded.HERE / "aligned"
LAYERS, HIDDEN, KEYS, INNER = 30, 576, 192, 1536  # of SmolLM2-135M


def test_it_is_smollm2s_adapter_on_all_linear_layers():
    state, config = read_adapter(adapter_folder("fedrai:aligned")), read_adapter_config(FOLDER)
    assert str(config["base_model_name_or_path"]).endswith("SmolLM2-135M-Instruct")
    assert len(state) == LAYERS * 7 * 2
    rank = config["r"]
    attention = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KEYS)
    weights = rank * LAYERS * (attention + 3 * (HIDDEN + INNER))
    assert sum(part.numel() for part in state.values()) == weights
    assert all(torch.isfinite(part).all() for part in state.values())
    moved = [part.abs().max() > 0 for name, part in state.items() if "lora_B" in name]
    assert all(moved)


def test_it_is_small_enough_for_a_repository():
    sizes = [file.stat().st_size for file in FOLDER.iterdir()]
    assert sum(sizes) <= 10_000_000
    assert max(sizes) <= 2_000_000


def test_the_quickstart_starts_from_it_with_the_same_shape():
    adapter = recipe.load(Path("quickstart")).adapter
    config = read_adapter_config(FOLDER)
    assert adapter.start == "fedrai:aligned"
    assert (adapter.rank, adapter.alpha) == (config["r"], config["lora_alpha"])


def test_the_recipe_goes_on_from_it_and_names_how_it_was_made():
    shipped = recipe.shipped(alignments=True)
    assert set(shipped) == {"align_smollm2"}
    further = recipe.load_alignment(shipped["align_smollm2"])
    assert further.model.base == "fedrai:aligned"
    assert further.constitution.steps > 0
    assert "benchmarks/aligned_adapter.py" in shipped["align_smollm2"].read_text()
