"""The section of a recipe that names a tracker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedrai.recipe.base import Section


class Tracking(Section):
    """Where a run's figures are also sent: losses, rates, costs; never a text. Changes no result and is not part of the recipe's hash."""

    kind: Literal["none", "tensorboard", "mlflow", "wandb", "trackio"] = "none"
    """Tracker; each needs the extra of its name (`fedrai[tensorboard]`)."""
    project: str = Field("fedrai", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Project or experiment that runs are grouped under (not used by TensorBoard)."""
    name: str = ""
    """Name of the run there; empty: the recipe's name and seed."""
    folder: str = ""
    """Where it writes. Empty: `tracking/` in the run folder (TensorBoard, W&B), else the tracker's own default. TensorBoard makes a folder for each run in it."""
    uri: str = ""
    """Server of MLflow, W&B or trackio; empty: what the tracker's own settings say."""
    offline: bool = False
    """W&B: only write to `folder`, for `wandb sync` later."""

    @model_validator(mode="after")
    def _fits_kind(self) -> Tracking:
        if self.uri and self.kind not in ("mlflow", "wandb", "trackio"):
            raise ValueError(f'uri: kind = "{self.kind}" has no server')
        if self.uri and self.folder and self.kind == "mlflow":
            raise ValueError("MLflow writes to a folder or to a uri: set one of them")
        if self.offline and (self.uri or self.kind != "wandb"):
            raise ValueError(
                'offline is for kind = "wandb" without a uri; the others write to disk'
            )
        return self
