"""The section of a recipe that names a tracker of experiments."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from fedrai.recipe import keys
from fedrai.recipe.base import Section


class Tracking(Section):
    """A tracker that also receives a run's figures: losses, rates, costs; never text. It changes no result and is not part of the recipe's hash."""

    kind: Literal["none", "tensorboard", "mlflow", "wandb", "trackio"] = "none"
    """The tracker; each needs the extra of the same name (`fedrai[tensorboard]`)."""
    project: keys.Name = "fedrai"
    """Project or experiment that groups runs (not used by TensorBoard)."""
    name: str = ""
    """Name of the run in the tracker. Empty: the recipe's name and seed."""
    folder: str = ""
    """Folder that it writes to; TensorBoard makes one below it for each run. Empty: `tracking/` in the run folder (TensorBoard, W&B), else the tracker's own default."""
    uri: str = ""
    """Server of MLflow, W&B or trackio. Empty: as in the tracker's own settings."""
    offline: bool = False
    """W&B: write to `folder` only, for a later `wandb sync`."""

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
