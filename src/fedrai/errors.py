"""Every error that FedRAI raises on purpose.

    FedRAIError
    ├── RecipeError       the recipe cannot be read, or a value in it is not allowed
    ├── AssetError        a model or dataset cannot be fetched, opened or verified
    │   └── ChecksumError the bytes are not the bytes that were pinned
    ├── DataError         a file or row of training data is not usable
    ├── ModelError        a model, tokenizer or chat template cannot be used
    ├── GuardError        a guard cannot be loaded, trained or used
    ├── ConstitutionError a constitution cannot be read or used
    ├── FederationError   a round cannot continue (too few usable updates, ...)
    ├── ProtocolError     a message contains something that must not be sent
    ├── RunError          a run folder cannot be written, read or resumed
    ├── EvaluationError   a suite or judge cannot be used
    ├── DeploymentError   a consortium's folder, certificate or key cannot be created or used
    ├── ReleaseError      a model is not released, or a release cannot be made or verified
    └── DependencyError   an optional package is missing

An error says what was expected, what was found and where; `hint` is the next step. It never
contains the text of a client's data: rows are given by file and line. Exit codes live in
`cli/root.py`.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class FedRAIError(Exception):
    """Base of all errors that a user can fix.

    Args:
        message: what is wrong and where, in one sentence.
        hint: the next step, usually a command; empty: the message says enough.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RecipeError(FedRAIError):
    """The recipe cannot be read, or a value in it is not allowed."""


class AssetError(FedRAIError):
    """A model or dataset cannot be fetched, opened or verified."""


class ChecksumError(AssetError):
    """The bytes are not the bytes that were pinned."""


class DataError(FedRAIError):
    """A file or row of training data is not usable."""


class ModelError(FedRAIError):
    """A model, tokenizer or chat template cannot be used."""


class GuardError(FedRAIError):
    """A guard cannot be loaded, trained or used."""


class ConstitutionError(FedRAIError):
    """A constitution cannot be read or used."""


class FederationError(FedRAIError):
    """A round cannot continue."""


class ProtocolError(FedRAIError):
    """A message contains something that must not be sent."""


class RunError(FedRAIError):
    """A run folder cannot be written, read or resumed."""


class EvaluationError(FedRAIError):
    """A suite or judge cannot be used."""


class DeploymentError(FedRAIError):
    """A consortium's folder, certificate or key cannot be created or used."""


class ReleaseError(FedRAIError):
    """A model is not released, or a release cannot be made or verified."""


class DependencyError(FedRAIError):
    """An optional package is missing."""


def place_of(error: BaseException) -> str:
    """The origin of an exception, without its message: `ValueError at train.py:91`."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{type(error).__name__} at {places}"
