"""Costs by phase: seconds, tokens, floating-point operations, peak memory and bytes.

Energy and money are not covered. Operations are counted from shapes, not measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a phase.

    Attributes:
        seconds: wall time.
        tokens: tokens that went through the model, without padding.
        operations: floating-point operations (a multiply-add is two).
        peak_bytes: highest resident memory of the process while the phase ran (GPU: memory
            allocated on the device); a maximum over repetitions, not a sum.
        bytes_down: payload sent by the server.
        bytes_up: payload received by the server.
    """

    seconds: float = 0.0
    tokens: int = 0
    operations: float = 0.0
    peak_bytes: int = 0
    bytes_down: int = 0
    bytes_up: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.operations + other.operations,
            max(self.peak_bytes, other.peak_bytes),
            self.bytes_down + other.bytes_down,
            self.bytes_up + other.bytes_up,
        )

    def to_json(self) -> dict[str, float]:
        """Plain numbers by field name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Cost:
        """A cost from JSON; a figure that is missing, or not a number, counts as 0."""
        body = value if isinstance(value, Mapping) else {}
        names = [field.name for field in fields(cls)]
        figures: dict[str, Any] = {
            n: body[n] for n in names if isinstance(body.get(n), int | float)
        }
        return cls(**figures)


class Ledger:
    """Adds up costs by phase ("training", "evaluation", "aggregation" ...)."""

    def __init__(self, phases: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.phases = {name: Cost.from_json(values) for name, values in (phases or {}).items()}

    def add(self, phase: str, cost: Cost) -> None:
        """Add a cost to a phase."""
        self.phases[phase] = self.phases.get(phase, Cost()) + cost

    def merge(self, other: Ledger) -> None:
        """Add another ledger's costs, phase by phase."""
        for phase, cost in other.phases.items():
            self.add(phase, cost)

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the wall time and the peak memory of a block."""
        reset_peak()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, Cost(seconds=time.perf_counter() - start, peak_bytes=peak_bytes()))

    def to_json(self) -> dict[str, dict[str, float]]:
        """Plain numbers by phase."""
        return {name: cost.to_json() for name, cost in self.phases.items()}


def reset_peak() -> None:
    """Start a new peak: Linux and CUDA let a process reset its own high-water mark."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # on other systems the peak is that of the whole process


def peak_bytes() -> int:
    """Highest resident memory since `reset_peak` (GPU: allocated device memory), in bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_memory() -> None:
    """Return freed heap to the system, if the C library can (glibc does)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures of a model that operation counts need.

    Attributes:
        block_weights: weights of the matrices in the transformer blocks.
        adapter_weights: trainable LoRA weights.
        output_weights: weights of the output layer (vocabulary x hidden size).
        layers: number of blocks.
        attention_size: query heads x head size.
    """

    block_weights: int
    adapter_weights: int
    output_weights: int
    layers: int
    attention_size: int


def training_operations(shape: Shape, tokens: int, label_tokens: int, length: float) -> float:
    """Operations of LoRA training.

    Per token: 2 for each frozen weight forward and 2 backward (activations only), 6 for each
    trained weight, the output layer at label tokens only, and attention's two products over half
    the length (causal), forward and twice backward. After Kaplan et al., arXiv 2001.08361,
    section 2.1.

    Args:
        shape: shape of the model.
        tokens: tokens without padding.
        label_tokens: tokens that count in the loss.
        length: mean length of a sequence, in tokens.
    """
    dense = 4.0 * shape.block_weights + 6.0 * shape.adapter_weights
    attention = 3 * 2.0 * shape.layers * shape.attention_size * length
    return tokens * (dense + attention) + label_tokens * 4.0 * shape.output_weights


def generation_operations(
    shape: Shape, prompt_tokens: int, new_tokens: int, length: float
) -> float:
    """Operations of generation: one forward pass a token, the output layer at new tokens only."""
    dense = 2.0 * (shape.block_weights + shape.adapter_weights)
    attention = 2.0 * shape.layers * shape.attention_size * length
    return (prompt_tokens + new_tokens) * (
        dense + attention
    ) + new_tokens * 2.0 * shape.output_weights
