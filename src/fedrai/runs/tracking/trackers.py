"""The trackers behind one interface. A tracker's library is imported when it is opened.

All write to disk when they are called, or when they are closed (W&B and trackio keep a queue). Only
the figures and settings are sent: what the libraries collect by themselves (console, code, git,
machine, load) is switched off where possible.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fedrai.errors import DependencyError
from fedrai.recipe.tracking import Tracking

KINDS = ("tensorboard", "mlflow", "wandb", "trackio")  # named as their packages are
Settings = Mapping[str, str | float]


def identity_of(destination: Tracking) -> list[str]:
    """The fields that identify a tracker, without secrets of the server's address."""
    uri = re.sub(r"//.*@|\?.*", "", destination.uri)
    return [destination.kind, destination.project, destination.name, destination.folder, uri]


def without_secrets(uri: str) -> str:
    """A server's address without its user, password and query."""
    return re.sub(r"(?<=//).*@|\?.*", "", uri)


class Tracker(Protocol):
    """Receives the figures of one run; any call may fail."""

    id: str
    """The tracker's own id of the run, which resumes it."""

    viewer: str
    """The command or the address that shows the run."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Receive the figures of a step; steps never decrease."""

    def close(self, finished: bool) -> None:
        """End; `finished` is False where the run may be resumed."""


def check(kind: str) -> None:
    """Check that a tracker's library is installed, without importing it.

    Raises:
        DependencyError: it is not installed.
    """
    if kind in KINDS and importlib.util.find_spec(kind) is None:
        raise DependencyError(
            f'tracking.kind = "{kind}" needs the package {kind}',
            hint=f"pip install 'fedrai[{kind}]', or set tracking.kind to \"none\"",
        )


def connect(destination: Tracking, identity: str, settings: Settings) -> Tracker:
    """Open a tracker.

    Args:
        destination: the tracker and where the run's figures go in it.
        identity: `Tracker.id` of a run to resume; empty: a new one.
        settings: shown beside the figures.

    Raises:
        DependencyError: its library is not installed.
        Exception: whatever the library raises.
    """
    check(destination.kind)
    classes: tuple[Any, ...] = (TensorBoard, MLflow, WandB, Trackio)
    tracker: Tracker = dict(zip(KINDS, classes, strict=True))[destination.kind](
        destination, identity, settings
    )
    return tracker


class TensorBoard:
    """Event files with TensorBoard's scalars; shown by `tensorboard --logdir`."""

    def __init__(self, destination: Tracking, identity: str, _settings: Settings) -> None:
        from tensorboard.summary import Writer

        self.id = identity or destination.name
        self.viewer = shlex.join(["tensorboard", "--logdir", destination.folder])
        self._writer = Writer(destination.folder)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Write scalars and flush them to disk."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """An MLflow experiment, on a tracking server or in an SQLite file."""

    def __init__(self, destination: Tracking, identity: str, settings: Settings) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a run must not wait long
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(_mlflow_uri(destination))
        self.id = identity or self._create(destination)
        if not identity:
            self._describe(settings)
        self.viewer = _mlflow_viewer(self._client.tracking_uri)
        self._client.update_run(self.id, status="RUNNING")

    def _create(self, destination: Tracking) -> str:
        experiment = self._client.get_experiment_by_name(destination.project)
        if experiment is None:
            id_ = self._client.create_experiment(destination.project)
        else:
            id_ = experiment.experiment_id
        return str(self._client.create_run(id_, run_name=destination.name).info.run_id)

    def _describe(self, settings: Settings) -> None:
        from mlflow.entities import Param

        self._client.log_batch(self.id, params=[Param(k, str(v)) for k, v in settings.items()])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log batches; MLflow allows letters, digits and `_-. /` in names."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        allowed = {re.sub(r"[^\w\-. /]", "_", n, flags=re.ASCII): v for n, v in figures.items()}
        metrics = [Metric(name, value, now, step) for name, value in allowed.items()]
        for start in range(0, len(metrics), 1000):  # the largest batch
            self._client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def close(self, finished: bool) -> None:
        """Set the run's state."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def _mlflow_uri(destination: Tracking) -> str | None:
    if not destination.folder:
        return destination.uri or None
    Path(destination.folder).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(destination.folder).resolve()}/mlflow.db"


def _mlflow_viewer(uri: str) -> str:
    """A server's address; for a file, the command that serves it."""
    if uri.startswith(("http://", "https://")):
        return without_secrets(uri)
    return shlex.join(["mlflow", "ui", "--backend-store-uri", without_secrets(uri)])


class WandB:
    """A run of Weights & Biases, online or for `wandb sync` later."""

    def __init__(self, destination: Tracking, identity: str, settings: Settings) -> None:
        import wandb

        self.id = identity or secrets.token_hex(6)
        Path(destination.folder).mkdir(parents=True, exist_ok=True)
        quiet: dict[str, Any] = {"silent": True, "console": "off", "disable_git": True,
            "disable_code": True, "x_disable_stats": True, "x_disable_meta": True,
            "x_disable_machine_info": True, "x_save_requirements": False, "host": ""}  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr):
            self._run = wandb.init(
                project=destination.project,
                name=destination.name,
                id=self.id,
                dir=destination.folder,
                config=dict(settings),
                mode="offline" if destination.offline else None,
                resume=None if destination.offline else "allow",
                settings=wandb.Settings(
                    **quiet, **({"base_url": destination.uri} if destination.uri else {})
                ),
            )
        folder = Path(self._run.dir).parent  # of this part of the run: .../offline-run-TIME-ID
        self.viewer = (
            shlex.join(["wandb", "sync", str(folder)]) if destination.offline else self._run.url
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Queue the figures; W&B sends them in the background."""
        self._run.log(dict(figures), step=step)

    def close(self, finished: bool) -> None:
        """Wait until everything is written."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish(exit_code=0 if finished else 1)


class Trackio:
    """A run of trackio, in its local database or on your own server."""

    def __init__(self, destination: Tracking, identity: str, settings: Settings) -> None:
        if destination.folder:
            os.environ["TRACKIO_DIR"] = destination.folder  # read when trackio is imported
        with contextlib.redirect_stdout(sys.stderr):
            import trackio

            self.id = identity or f"{destination.name}-{secrets.token_hex(3)}"
            self._run = trackio.init(
                destination.project,
                name=self.id,
                server_url=destination.uri or None,
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        local = [f"TRACKIO_DIR={shlex.quote(destination.folder)} "] if destination.folder else []
        command = "".join(
            [*local, shlex.join(["trackio", "show", "--project", destination.project])]
        )
        self.viewer = without_secrets(destination.uri) or command

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Queue the figures; trackio writes them in the background."""
        self._run.log(dict(figures), step=step)

    def close(self, finished: bool) -> None:
        """Wait until everything is written."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()
