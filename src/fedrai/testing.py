"""Fakes for tests and for trying recipes without a real model: a tiny random Llama.

`make_tiny_model` writes an ordinary model folder of about 0.3 MB; all code that uses it is real.
"""

from __future__ import annotations

from pathlib import Path

import torch

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_model(folder: Path, *, seed: int = 0, template: str = CHATML) -> Path:
    """Write a random two-layer Llama and a byte-level tokenizer.

    Args:
        folder: created if needed.
        seed: for drawing the weights.
        template: chat template.

    Returns:
        The folder.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(template: str = CHATML, special: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    """A byte-level BPE tokenizer without merges (one token a byte) and with a chat template.

    Args:
        template: chat template.
        special: more special tokens, for templates of other families.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = list(dict.fromkeys(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special]))
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate([*names, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special),
    )
    tokenizer.chat_template = template
    return tokenizer
