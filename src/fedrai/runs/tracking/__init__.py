"""Trackers: a run's figures sent to TensorBoard, MLflow, Weights & Biases or trackio as well.

    event of the run -> what is committed in its folder (`figures`) -> one of `trackers`

Figures are read from what the run folder has committed, so that nothing is sent that a resumed run
would do again. Never a text: names of clients, categories and figures only. A tracker changes no
result, and one that fails stops nothing: it is said once, and what it missed is sent when the run
is resumed.
"""

from fedrai.runs.tracking.following import Follower, follow
from fedrai.runs.tracking.trackers import Place, Tracker, check, connect

__all__ = ["Follower", "Place", "Tracker", "check", "connect", "follow"]
