"""What the tests share: a tiny random model, one thread, no network."""

import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("COLUMNS", None)  # of the terminal; pytest-xdist sets it, and tables follow it

import pytest
import torch
from hypothesis import settings

from fedrai.model import LanguageModel, LoadOptions, Lora, load
from fedrai.testing import make_tiny_model

settings.register_profile("fedrai", deadline=None, database=None)  # machines are busy; no files
settings.load_profile("fedrai")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _imported_is_not_collected() -> None:
    """Flower collects garbage with every adapter it converts, a second over all imports."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer Llama with a byte-level tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> LanguageModel:
    """The tiny model in float32 with an adapter of rank 4; shared, so load the adapter you need."""
    return load(str(tiny_model), Lora(rank=4), LoadOptions(dtype="float32"))
