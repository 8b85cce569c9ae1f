"""Why a client is set aside in a round: the only words that a reply without an update may hold."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a client is set aside in a round. The first group comes from clients."""

    NO_ROWS = "no-rows-left"
    GUARD = "guard-cannot-work"
    BAD_TASK = "task-not-understood"
    OUT_OF_MEMORY = "out-of-memory"
    FAILED = "training-failed"
    BAD_DATA = "data-not-usable"
    BAD_OFFER = "offer-not-readable"
    OTHER_VERSION = "other-version"
    OTHER_MODEL = "other-base-model"
    MODEL_REFUSED = "base-model-not-allowed"
    MODEL_FAILED = "base-model-cannot-be-loaded"
    FILTER_REQUIRED = "filter-required"
    GUARD_REFUSED = "guard-not-allowed"
    THRESHOLD_REFUSED = "threshold-too-high"
    JUDGE_REFUSED = "judged-part-not-allowed"
    TOO_MANY_STEPS = "too-many-steps"
    TOO_MANY_ROUNDS = "too-many-rounds"
    BATCH_TOO_LARGE = "batch-too-large"
    ROWS_TOO_LONG = "rows-too-long"
    NUMBERS_REFUSED = "numbers-not-sent"
    VARIATE_LOST = "control-variate-lost"
    MESSAGES_REFUSED = "lossy-messages-not-allowed"
    OTHER_ROWS = "no-rows-of-this-kind"
    PRIVACY_REFUSED = "privacy-not-enough"
    PRIVACY_SPENT = "privacy-budget-spent"

    NO_REPLY = "no-reply-in-time"
    UNREADABLE = "reply-not-readable"
    WRONG_NAMES = "wrong-array-names"
    WRONG_SHAPES = "wrong-array-shapes"
    NOT_FINITE = "values-not-finite"
    OUT_OF_RANGE = "numbers-out-of-range"
    BAD_WEIGHT = "weight-not-positive"
    BAD_METRICS = "metrics-not-allowed"


SERVER_REASONS = frozenset(
    {
        Reason.NO_REPLY,
        Reason.UNREADABLE,
        Reason.WRONG_NAMES,
        Reason.WRONG_SHAPES,
        Reason.NOT_FINITE,
        Reason.OUT_OF_RANGE,
        Reason.BAD_WEIGHT,
        Reason.BAD_METRICS,
    }
)
CLIENT_REASONS = frozenset(Reason) - SERVER_REASONS
