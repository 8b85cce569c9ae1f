"""Our HHH figures against plain transformers: the same pairs, one row at a time, no padding.

    python benchmarks/hhh_oracle.py smollm2-135m-instruct --suite hhh=PATH

Nothing of the package touches the peer's side but the pairs: it renders the tokenizer's own chat
template, reads each answer by itself with `AutoModelForCausalLM`, and adds up log-probabilities. In
float32 an answer's mean per token must agree to 1e-4 nats. In bfloat16 a logit between 16 and 32 is
good to a step of 0.125, which is what an answer of a few tokens may differ by; over longer ones it
averages out to 2e-2. Where the two margins are further from 0 than 1e-4 and 2e-2 nats a token, both
must choose the same answer. Exits with 1 where they do not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import common  # noqa: F401 (quiets warnings)
from fedrai import model
from fedrai.errors import FedRAIError
from fedrai.evaluation import suites
from fedrai.evaluation.preference import Choice, prefer
from fedrai.model.loading import model_folder

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.125}  # nats a token: of the answer that is furthest
ROUNDING = {"float32": 1e-4, "bfloat16": 2e-2}  # nats a token: what a margin may hang on


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far both sides agree.

    Attributes:
        pairs: that both scored.
        sums: largest difference of an answer's log-probability, in nats.
        tokens: the largest difference per token.
        counts: answers whose numbers of tokens differ.
        choices: pairs in which the sums choose differently.
        normalised: pairs in which the means do.
        clear: of both, those that no rounding explains.
        rates: share of pairs decided rightly: ours and theirs by sums, ours and theirs by means.
    """

    pairs: int
    sums: float
    tokens: float
    counts: int
    choices: int
    normalised: int
    clear: int
    rates: tuple[float, float, float, float]


class Peer:
    """Plain transformers."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        kind = getattr(torch, dtype)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()

    @torch.no_grad()
    def read(self, prompt: str, answer: str) -> tuple[float, int]:
        """Log-probability of an answer and of the token that ends it, in nats; their number."""
        turns = dialogue(prompt)
        start = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        said = [*turns, {"role": "assistant", "content": answer}]
        text = self._tokenizer.apply_chat_template(said, tokenize=False)
        assert text.startswith(start), "the template writes a request otherwise before an answer"
        coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = coded["input_ids"], coded["offset_mapping"]
        first = next(i for i, (left, _) in enumerate(offsets) if left >= len(start))
        last = ids.index(self._tokenizer.eos_token_id, first)
        logits = self._model(torch.tensor([ids])).logits[0, first - 1 : last].float()
        targets = torch.tensor(ids[first : last + 1])
        return float(logits.log_softmax(-1).gather(1, targets[:, None]).sum()), last + 1 - first


def dialogue(prompt: str) -> list[dict[str, str]]:
    """The turns of a prompt of HHH; the first has no mark."""
    turns = [{"role": "user", "content": ""}]
    for part in prompt.split("\n\n"):
        for mark, role in (("Human:", "user"), ("Assistant:", "assistant")):
            if part.startswith(mark) and turns[0]["content"]:
                turns.append({"role": role, "content": part.removeprefix(mark)})
                break
        else:
            turns[-1]["content"] += ("\n\n" if turns[-1]["content"] else "") + part
    return [{**turn, "content": turn["content"].strip()} for turn in turns]


def compare(
    ours: Sequence[Choice], items: Sequence[suites.Item], peer: Peer, dtype: str
) -> Agreement:
    """Both sides on the pairs that fit the model."""
    scored = [(c, i) for c, i in zip(ours, items, strict=True) if c.chosen is not None]
    rounding, sums, means, counts, gaps, slack = ROUNDING[dtype], [], [], 0, [], []
    for choice, item in scored:
        read = [peer.read(item.prompt, text) for text in (item.chosen, item.rejected)]
        own = [(choice.chosen, choice.chosen_tokens), (choice.rejected, choice.rejected_tokens)]
        gaps += [(abs(a - b), abs(a - b) / n) for (a, n), (b, _) in zip(own, read, strict=True)]
        counts += sum(n != m for (_, n), (_, m) in zip(own, read, strict=True))
        sums.append((choice.summed, read[0][0] - read[1][0]))
        means.append((choice.normalised, read[0][0] / read[0][1] - read[1][0] / read[1][1]))
        slack.append(rounding * sum(n for _, n in own))
    unlike = [differs(sums, slack), differs(means, [2 * rounding] * len(means))]
    pairs = max(1, len(scored))
    rates = [sum(m[side] > 0 for m in part) / pairs for part in (sums, means) for side in (0, 1)]
    return Agreement(
        len(scored), max((g for g, _ in gaps), default=0.0), max((g for _, g in gaps), default=0.0),
        counts, unlike[0][0], unlike[1][0], unlike[0][1] + unlike[1][1], tuple(rates),
    )  # fmt: skip


def differs(margins: Sequence[tuple[float, float]], slack: Sequence[float]) -> tuple[int, int]:
    """Pairs whose margins have different signs, and those of them that rounding cannot explain."""
    other = [(m, s) for m, s in zip(margins, slack, strict=True) if (m[0] > 0) != (m[1] > 0)]
    return len(other), sum(max(abs(m[0]), abs(m[1])) > s for m, s in other)


def agrees(found: Agreement, dtype: str) -> bool:
    """Whether differences are within what the number format explains."""
    right = not found.counts and not found.clear
    return found.pairs > 0 and right and found.tokens <= TOLERANCE[dtype]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--suite", default="hhh", help="hhh, hhh=PATH, or a file of pairs")
    parser.add_argument("--limit", type=int, default=0, help="pairs; 0: all")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    parser.add_argument("--batch-size", type=int, default=4)
    args = parser.parse_args(arguments)
    try:
        suite = suites.load(args.suite, args.limit)
        if isinstance(suite, suites.NotAvailable):
            print(f"{suite.name}: not available: {suite.reason}; {suite.hint}", file=sys.stderr)
            return 2
        lm = model.load(args.model, options=model.LoadOptions(args.dtype, device="cpu"))
        with lm.using(None):
            ours = prefer(lm, suite.items, batch_size=args.batch_size).choices
        peer = Peer(model_folder(args.model, None), args.dtype)
    except FedRAIError as error:
        print(f"error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""),
              file=sys.stderr)  # fmt: skip
        return 2
    found = compare(ours, suite.items, peer, args.dtype)
    show(found, len(suite.items), args.dtype)
    return 0 if agrees(found, args.dtype) else 1


def show(found: Agreement, asked: int, dtype: str) -> None:
    ours, theirs, our_means, their_means = (f"{100 * rate:.1f} %" for rate in found.rates)
    print(f"{found.pairs} of {asked} pairs, {dtype}; ours and plain transformers:")
    print(f"  by sums: {ours} and {theirs}; {found.choices} choices differ")
    print(f"  by token: {our_means} and {their_means}; {found.normalised} choices differ")
    print(f"  largest difference of an answer: {found.sums:.2e} nats, {found.tokens:.2e} a token")
    print(f"  {'agree' if agrees(found, dtype) else 'DO NOT AGREE'}")


if __name__ == "__main__":
    sys.exit(main())
