"""Float32 master weights of an adapter that computes in another number format, and their AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedrai.model import AdapterState
from fedrai.model.adapted import AdaptedModel
from fedrai.model.parts import ALL, Part


class MasterWeights:
    """Float32 copies of an adapter's weights, which AdamW updates and which are copied back.

    Args:
        model: its adapter is overwritten, now and at every step.
        start: the adapter to start from, float32.
        weight_decay: decoupled, as in AdamW.
        extra_parameters: other float32 weights to train, such as those of a head.
        part: what of the adapter is trained; the rest stays as it is in `start`.
    """

    def __init__(
        self,
        model: AdaptedModel,
        start: AdapterState,
        *,
        weight_decay: float = 0.0,
        extra_parameters: Iterable[torch.nn.Parameter] = (),
        part: Part = ALL,
    ) -> None:
        model.load_adapter(start)
        self._start, self._part = start, part
        self._names = [name for name in model.parameters if part.trains(name)]
        self._weights = [model.parameters[name] for name in self._names]
        for weight in self._weights:
            weight.grad = None  # left by a training that was interrupted
        trained = list(zip(self._names, self._weights, strict=True))
        self._views = [part.cut(name, weight.detach()) for name, weight in trained]
        self.copies = [view.float().clone() for view in self._views]
        with torch.no_grad():
            for copy, name in zip(self.copies, self._names, strict=True):
                copy.copy_(part.cut(name, start[name]))
        self._trained = [*self.copies, *extra_parameters]
        self._optimiser = torch.optim.AdamW(self._trained, weight_decay=weight_decay)

    def collect(self) -> None:
        """Move the gradients from the model's weights to the copies."""
        for name, weight, copy in zip(self._names, self._weights, self.copies, strict=True):
            gradient = weight.grad
            copy.grad = None if gradient is None else self._part.cut(name, gradient).float()
            weight.grad = None

    def in_order(self, state: AdapterState | None) -> list[Tensor]:
        """The trained part of a state in the order of `copies`, on their device; None: empty."""
        pairs = zip(self._names, self.copies, strict=True)
        return [] if state is None else [
            self._part.cut(name, state[name]).to(copy.device) for name, copy in pairs
        ]  # fmt: skip

    def step(
        self, learning_rate: float, clip_norm: float, correction: Sequence[Tensor] = ()
    ) -> None:
        """One step of AdamW, with the gradient clipped to a norm.

        Args:
            learning_rate: of this step.
            clip_norm: the largest norm of the gradient.
            correction: added to AdamW's own direction, in the order of `copies`; empty: none.
        """
        self._optimiser.param_groups[0]["lr"] = learning_rate
        torch.nn.utils.clip_grad_norm_(self._trained, clip_norm)
        self._optimiser.step()
        if correction:
            with torch.no_grad():
                torch._foreach_add_(self.copies, list(correction), alpha=-learning_rate)
        self._optimiser.zero_grad()
        self.copy_to_model()

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy the master weights into the model."""
        torch._foreach_copy_(self._views, self.copies)

    def named(self) -> dict[str, Tensor]:
        """The master weights themselves by name, with their gradients."""
        return dict(zip(self._names, self.copies, strict=True))

    def adapter(self) -> AdapterState:
        """The current adapter, float32 on the CPU; may share memory with the copies there."""
        trained = {n: c.detach().cpu() for n, c in zip(self._names, self.copies, strict=True)}
        return self._part.filled(trained, self._start)

    def state(self) -> dict[str, Tensor]:
        """Copies of weights, moments and counts by name, on the CPU; all that `restore` needs."""
        parts = {}
        for name, copy in zip(self._names, self.copies, strict=True):
            moments = self._optimiser.state.get(copy) or _initial_moments(copy)
            parts[f"weight.{name}"] = copy.detach()
            parts |= {f"{key}.{name}": value for key, value in moments.items()}
        return {name: part.cpu().clone() for name, part in parts.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state from `state`.

        Raises:
            KeyError: a part is missing.
        """
        for name, copy in zip(self._names, self.copies, strict=True):
            copy.copy_(state[f"weight.{name}"])
            self._optimiser.state[copy] = {
                key: state[f"{key}.{name}"].to(initial.device, copy=True)
                for key, initial in _initial_moments(copy).items()
            }
        self.copy_to_model()


def _initial_moments(weight: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a weight before its first step, by its own names."""
    zeros = torch.zeros_like(weight)
    return {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
