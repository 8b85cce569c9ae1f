"""`safe-lora`: project the layers that deviate (Safe LoRA, Hsu et al., arXiv 2405.16833).

With V = W_aligned - W_base of a layer (what the start adds to it), its alignment matrix is

    C = V V^T / ||V||_F

and its change dW becomes C dW if the cosine between C dW and dW is below the threshold. The others
stay as they are. C is symmetric and has no negative eigenvalues, so the cosine is 0 to 1. Its scale
is that of V: with a small V, as of an adapter, C dW is far smaller than dW even where dW lies in
the columns of V, and projecting comes close to taking the change back. `orthogonal` replaces C by
the projection U U^T on the columns of V, which the same authors name as what C approximates.

A layer to which the start adds nothing, or that did not change, has no cosine and is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.model import AdapterState
from fedrai.model.products import NOTHING, LowRank, change, layers_of, product

Projection = Literal["published", "orthogonal"]


@dataclass(frozen=True, slots=True)
class SafeLora:
    """Projection of the layers that deviate.

    Attributes:
        start: the aligned adapter.
        scale: LoRA's scale, alpha / rank, by which V is multiplied.
        threshold: cosine below which a layer is projected.
        projection: which C.
    """

    start: AdapterState
    scale: float
    threshold: float
    projection: Projection = "published"

    def after(self, task: Task) -> Outcome:
        """The adapter with projected layers."""
        tests = {
            layer: Test.of(self.start, task.adapter, layer, self.scale, self.projection)
            for layer in layers_of(task.adapter)
        }

        def correct(layer: str, _change: LowRank) -> LowRank | None:
            test = tests[layer]
            return test.projected if test.fails(self.threshold) else None

        outcome = corrected(task, self.start, correct)
        return Outcome(outcome.adapter, {**outcome.report, **cosines(list(tests.values()))})


@dataclass(frozen=True, slots=True)
class Test:
    """The test of one layer.

    Attributes:
        projected: C dW.
        cosine: between C dW and dW; None: one of them is zero.
    """

    projected: LowRank
    cosine: float | None

    @classmethod
    def of(
        cls,
        start: AdapterState,
        adapter: AdapterState,
        layer: str,
        scale: float,
        projection: Projection,
    ) -> Test:
        """Test a layer; the arguments are those of `SafeLora`."""
        moved = change(start, adapter, layer)
        projected = project(product(start, layer) * scale, moved, projection)
        return cls(projected, projected.cosine(moved))

    def fails(self, threshold: float) -> bool:
        """Whether the layer deviates."""
        return self.cosine is not None and self.cosine < threshold


def project(aligned: LowRank, moved: LowRank, projection: Projection) -> LowRank:
    """C dW, without forming C.

    Args:
        aligned: V, with the scale.
        moved: dW.
        projection: `published`: C = V V^T / ||V||; `orthogonal`: C = U U^T, with the left singular
            vectors U of V.
    """
    u, values, _ = aligned.svd()
    real = values > NOTHING * values.max()
    u, values = u[:, real], values[real]
    weights = values**2 / values.norm() if projection == "published" else values**0
    return LowRank(u * weights, (u.T @ moved.left) @ moved.right)


def cosines(tests: list[Test]) -> dict[str, float | None]:
    """The least and the median cosine of the layers that have one."""
    known = [test.cosine for test in tests if test.cosine is not None]
    return {
        "cosine_least": min(known, default=None),
        "cosine_median": median(known) if known else None,
    }
