"""The round loop: sample, send, validate, aggregate, align, commit, evaluate; one for all runtimes.

Each step leaves the run folder in a state from which `run_rounds` resumes to the same bits: replies
are kept as they arrive, an alignment keeps its own state, a round is committed whole, and what a
folder already holds is not done again. A repeated round aggregates the kept updates again, from the
server state of the round before, and so gives the alignment the same adapter; if a client that was
set aside replies now, the adapter differs, and the alignment starts over.
"""

from __future__ import annotations

from fedrai.errors import FederationError
from fedrai.evaluation.figures import figures
from fedrai.evaluation.storing import write_evaluation
from fedrai.federation.plan import Adapters, Plan, load_adapters
from fedrai.federation.round import Round, Tools
from fedrai.federation.shared_round import server_state

SPENT_HINT = (
    "the model of the round before is complete and evaluated; for more rounds start a new run with"
    " more noise or a higher privacy.epsilon"
)


def run_rounds(plan: Plan, tools: Tools) -> None:
    """Go from the run folder's last round to the end.

    Raises:
        FederationError: a round has too few usable updates, or the recipe's epsilon allows no more.
        RunError: the run folder cannot be written or read.
    """
    last = tools.run.last_round()
    adapters = load_adapters(tools.run, tools.model, plan, last)
    if last:
        tools.aggregator.restore(server_state(tools.run, last))
    for number in range(last):  # only those that were damaged are missing
        _evaluate_if_due(plan, tools, number)
    _evaluate_if_due(plan, tools, last, adapters)
    for number in range(last + 1, plan.rounds + 1):
        one = Round(plan, tools, number, adapters)
        if why := one.too_costly():
            _evaluate_if_due(plan, tools, number - 1, adapters, is_last=True)
            raise FederationError(why, hint=SPENT_HINT)
        adapters = one.run()
        _evaluate_if_due(plan, tools, number, adapters)
    tools.emit("finished", rounds=plan.rounds)


def _evaluate_if_due(
    plan: Plan, tools: Tools, number: int, after: Adapters | None = None, *, is_last: bool = False
) -> None:
    """Evaluate the adapters after a round, which are read unless they are given."""
    regular = is_last or (plan.evaluate_every and number % plan.evaluate_every == 0)
    if not (number in (0, plan.rounds) or regular) or number in tools.run.evaluations():
        return
    adapters = after or load_adapters(tools.run, tools.model, plan, number)
    if tools.earlier is not None and tools.earlier.copy_evaluation(number, adapters):
        return
    tools.emit("evaluation-started", round=number)
    result = tools.evaluate([adapters[name] for name in sorted(adapters)])
    write_evaluation(tools.run, tools.run.evaluation_folder(number), result)
    tools.emit("evaluation-finished", round=number, **figures(result))
