"""What a run's model tells about the rows that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedrai.api.places import Place, observed

if TYPE_CHECKING:
    from fedrai.evaluation.membership import Membership


def check_membership(
    run: Place,
    members: Place | None = None,
    others: Place | None = None,
    *,
    round_: int | None = None,
    limit: int = 500,
    progress: bool = False,
) -> Membership:
    """Attack a run's model by membership inference, as `fedrai privacy check` does.

    Args:
        run: the run folder, in which the figures are stored.
        members: a file of rows that the model was trained on; None, with `others`: the rows of an
            experiment's clients, against rows of the same sources that no client got.
        others: a file of rows of the same kind that it was not trained on.
        round_: the round; None: the last.
        limit: most rows of each side; 0: all.
        progress: show the progress on stderr.

    Returns:
        The numbers of rows, and by attack ("loss", "ratio") its `auroc` and the share of members
        `found` at 1 % false positives, each with value, low and high (95 % interval).

    Raises:
        EvaluationError: the rows are not known, or too few.
        FedRAIError: the run or its model cannot be used.
    """
    from fedrai.federation.run import membership

    sides = (None if side is None else Path(side) for side in (members, others))
    with observed(progress) as observer:
        return membership.check_membership(
            Path(run), *sides, number=round_, limit=limit, observer=observer
        )
