"""Verdicts of a generative guard against transformers' `generate`, batched and one by one.

A Llama of random weights stands for the guard, with a big vocabulary and a prompt of the shape of
Llama Guard's: a policy of about 200 tokens, a request with its answer, and instructions behind it
(left out in the second shape). `generate` gets the same prompts in the order of the dataset, in
batches of the same number of rows, and makes as many tokens as a label with its categories takes
(10), or a label alone (3). Seconds are those of the processor, so run it on one thread; then other
work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

import common
from fedrai import data
from fedrai.guards.kinds.formats import FORMATS
from fedrai.guards.kinds.generative import GenerativeGuard, TokenLimits
from fedrai.records import Message

POLICY = """Read the conversation and say whether its last message breaks the house rules below.

C1: Bodily harm. Words that help or urge people to hurt others, or praise those who did.
C2: Theft and fraud. Words that help to take what belongs to others, by force or by deceit.
C3: Private life. Names, addresses, numbers or pictures of people who did not agree to it.
C4: Insults. Words that mock people for where they come from, what they believe or how they look.
C5: Medicine and law. Advice on treatment or courts that only a trained person should give.
C6: Break-ins. Words that help to enter computers, accounts or houses of others.
C7: Poison and weapons. How to make, buy or use what can hurt many people at once.
C8: Despair. Words that urge people to harm themselves, or that leave them alone with it.

Conversation:

"""
ENDING = """
End of the conversation.

Judge only the last message of it, and answer in this form:
- The first line is one word, either safe or unsafe.
- If it is unsafe, a second line names the rules that it breaks, with commas between them.
"""


def tokenizer(ending: str, rows: list[str]):
    """A byte-level BPE tokenizer of 8,000 tokens, learnt from the rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    words = ["<|pad|>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=words, show_progress=False)
    backend.train_from_iterator([POLICY + ENDING, *rows], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=words[0], bos_token=words[1], eos_token=words[2]
    )
    made.chat_template = (
        "{{ bos_token }}" + POLICY + "{% for m in messages %}{{ m.role + ': ' + m.content }}\n\n"
        "{% endfor %}" + ending + "{{ eos_token }}Verdict:\n\n"
    )
    return made


def model(args: argparse.Namespace):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=args.hidden // 128,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,  # so that every answer has the same length
    )
    return LlamaForCausalLM(config).eval()


def talks(count: int) -> list[tuple[Message, ...]]:
    """Requests and answers as they come: of all lengths, in no order."""
    examples = [
        e for name in ("ordinary", "safe-answers") for e in data.load(f"fedrai:{name}").examples
    ]
    return [examples[(i * 7) % len(examples)].messages for i in range(count)]


def theirs(base, made, conversations, size: int, limit: int) -> float:
    """Conversations a second of CPU time with `generate`."""
    start = time.process_time()
    with torch.inference_mode():
        for first in range(0, len(conversations), size):
            texts = [
                made.apply_chat_template(
                    [{"role": m.role, "content": m.content} for m in talk], tokenize=False
                )
                for talk in conversations[first : first + size]
            ]
            batch = made(texts, return_tensors="pt", padding=True, padding_side="left")
            base.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=limit,
                do_sample=False,
            )
    return len(conversations) / (time.process_time() - start)


def guard(base, made, args: argparse.Namespace, *, categories: bool) -> GenerativeGuard:
    """The guard; with categories, every second row or so is unsafe and its line takes 8 tokens."""
    entry = FORMATS["llama-guard-3"]
    line = replace(entry.categories, limit=8) if categories else None
    found = GenerativeGuard(
        base, made, replace(entry, categories=line), name="random", fingerprint="0",
        limits=TokenLimits(batch_tokens=args.batch * 320),
    )  # fmt: skip
    questions = [question for several in found._questions.values() for question in several]
    labels = {i for q in questions for i in (*q.labels[0].unsafe, *q.labels[0].safe)}
    head = torch.nn.Linear(args.hidden, args.vocabulary)
    with torch.no_grad():
        head.weight.copy_(base.get_input_embeddings().weight)
        head.bias.zero_()
        head.bias[sorted(labels)] = 12  # most of the mass, as in a guard that is sure of its form
    base.set_output_embeddings(head)
    return found


def ours(found: GenerativeGuard, conversations) -> float:
    """Conversations a second of CPU time with our guard; the shared policy is computed anew."""
    found._model._started.clear()
    start = time.process_time()
    verdicts = found.judge(conversations).verdicts
    seconds = time.process_time() - start
    assert all(v.probability is not None for v in verdicts)
    return len(conversations) / seconds


def measure(name: str, ending: str, args: argparse.Namespace, rows: list[str]) -> None:
    made, base = tokenizer(ending, rows), model(args)
    conversations = talks(args.rows)
    plain = guard(base, made, args, categories=False)
    named = guard(base, made, args, categories=True)
    shared = len(plain._shared["pair", 0])
    total = sum(len(j.ids) for j in plain._jobs(conversations, {})["pair", 0]) / args.rows
    print(f"{name}: {shared} shared tokens of {total:.0f}", flush=True)
    ours(plain, conversations[:8])
    theirs(base, made, conversations[:8], 8, 2)
    runs: dict[str, list[float]] = {n: [] for n in ("label", "named", "10", "3", "one")}
    for _ in range(args.pairs):
        runs["label"].append(ours(plain, conversations))
        runs["10"].append(theirs(base, made, conversations, args.batch, 10))
        runs["named"].append(ours(named, conversations))
        runs["3"].append(theirs(base, made, conversations, args.batch, 3))
        runs["one"].append(theirs(base, made, conversations[:8], 1, 10))
    batched = f"generate, batches of {args.batch},"
    unit = "conversations/CPU s"
    common.report("labels", runs["label"], f"{batched} 10 tokens", runs["10"], unit)
    common.report("labels", runs["label"], f"{batched} 3 tokens", runs["3"], unit)
    common.report("labels, categories", runs["named"], f"{batched} 10 tokens", runs["10"], unit)
    common.report("labels", runs["label"], "generate, one by one, 10 tokens", runs["one"], unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=64_000)
    args = parser.parse_args()
    examples = data.load("fedrai:ordinary").examples
    rows = [message.content for example in examples for message in example.messages]
    measure("policy, conversation, instructions", ENDING, args, rows)
    measure("policy, conversation", "", args, rows)


if __name__ == "__main__":
    main()
