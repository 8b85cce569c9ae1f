"""`antidote`: prune the weights that matter most for harmful answers (Antidote, arXiv 2408.09600).

The importance of a weight for the harmful rows is what taking its change back would do to their
loss, to first order, as a mean over rows x:

    importance = mean over x of |(w - w_pruned) * dL(x)/dw|

and the share of weights with the highest importance becomes w_pruned, once. In the paper the model
is aligned before a LoRA of the tuning is pruned to zero. Here the start is a part of the adapter,
so w_pruned is the weight in the start (`start`): the clients' change is pruned, the alignment
stays. With `zero` it is 0, and importance is |w * dL/dw|, SNIP's score (arXiv 1810.02340); the
paper's is Wanda's (arXiv 2306.11695), |w| times the norm of the inputs. The comparison is over all
factors of the adapter together. Each row goes through the model once, forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.federation.defences.base import OnProgress, Outcome, Task, ignore
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import Tokens
from fedrai.runs.costs import Cost, release_memory, training_operations
from fedrai.training.sft import label_count, summed_loss, token_counts


@dataclass(frozen=True, slots=True)
class Antidote:
    """Pruning of the weights that matter most for harmful answers.

    Attributes:
        model: the base model.
        rows: harmful rows.
        share: part of the weights that is pruned.
        pruned: the values of pruned weights; None: zero.
        on_progress: told of the rows that are done; may raise to stop.
    """

    model: LanguageModel
    rows: Sequence[Tokens]
    share: float
    pruned: AdapterState | None
    on_progress: OnProgress = ignore

    def after(self, task: Task) -> Outcome:
        """The pruned adapter."""
        target = self.pruned or {name: torch.zeros_like(t) for name, t in task.adapter.items()}
        scores, loss = importance(self.model, task.adapter, target, self.rows, self.on_progress)
        adapter, count = prune(task.adapter, target, scores, self.share)
        tokens, labels = token_counts(self.rows)
        length = tokens / len(self.rows)
        operations = training_operations(self.model.shape(), tokens, labels, length)
        total = sum(tensor.numel() for tensor in task.adapter.values())
        report = {"pruned": count, "weights": total, "rows": len(self.rows), "harmful_loss": loss}
        return Outcome(adapter, report, Cost(tokens=tokens, operations=operations))


def importance(
    model: LanguageModel,
    adapter: AdapterState,
    target: Mapping[str, Tensor],
    rows: Sequence[Tokens],
    on_progress: OnProgress = ignore,
) -> tuple[dict[str, Tensor], float]:
    """Importance of each weight of an adapter, and the mean loss of the rows per label token.

    Args:
        model: the base model; its adapter is the same afterwards.
        adapter: the adapter.
        target: the values that pruned weights get.
        rows: harmful rows; the loss of each is the mean over its label tokens, in nats.
        on_progress: called after each row; may raise to stop.
    """
    moved = {name: adapter[name] - target[name] for name in adapter}
    scores = {name: torch.zeros_like(tensor) for name, tensor in moved.items()}
    total = 0.0
    with model.using(adapter), model.mode(training=False):
        for number, row in enumerate(rows, 1):
            loss = summed_loss(model, [row])
            total += loss.item()
            (loss / label_count(row)).backward()  # type: ignore[no-untyped-call]
            for name, weight in model.parameters.items():
                if weight.grad is not None:
                    scores[name] += (moved[name] * weight.grad.float().cpu()).abs()
                weight.grad = None
            on_progress("importance", number, len(rows))
    release_memory()
    means = {name: score / len(rows) for name, score in scores.items()}
    return means, total / token_counts(rows)[1]


def prune(
    adapter: AdapterState,
    target: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    share: float,
) -> tuple[AdapterState, int]:
    """The adapter whose weights with the highest scores have their target's values; how many.

    Args:
        adapter: the adapter.
        target: the values of pruned weights.
        scores: importance of each weight; with a score of 0 none is pruned.
        share: part of all weights, 0 to 1.
    """
    names = sorted(adapter)
    flat = torch.cat([scores[name].flatten() for name in names])
    highest = torch.topk(flat, int(share * flat.numel()))
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[highest.indices[highest.values > 0]] = True
    masks = torch.split(chosen, [scores[name].numel() for name in names])
    pruned = {
        name: torch.where(mask.view_as(adapter[name]), target[name], adapter[name])
        for name, mask in zip(names, masks, strict=True)
    }
    return pruned, int(chosen.sum())
