"""Trackers: a run's figures are also sent to TensorBoard, MLflow, Weights & Biases or trackio.

    event of the run -> committed files of its folder (`figures`) -> one of `trackers`

Figures are read from committed files, so nothing is sent that a resumed run would repeat. No text
is sent: only names of clients and categories, and figures. A tracker changes no result. If it
fails, the run continues with one message, and resuming the run sends the missing figures.
"""

from fedrai.runs.tracking.following import FigureSender, follow
from fedrai.runs.tracking.trackers import Tracker, check, connect

__all__ = ["FigureSender", "Tracker", "check", "connect", "follow"]
