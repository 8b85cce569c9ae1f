"""FedRAI: federated fine-tuning of large language models that stays safe.

    import fedrai

    run = fedrai.run("quickstart", changes={"federation.rounds": 3})
    pandas.DataFrame(run.figures)

The names below are what Python code may count on (docs/python.md); each is loaded when it is first
used, so that `import fedrai` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedrai.api import (
        Alignment,
        Comparison,
        Judged,
        Run,
        Scan,
        align,
        check_membership,
        compare,
        judge,
        load_recipe,
        read_alignment,
        read_run,
        resume,
        run,
        scan,
    )
    from fedrai.errors import FedRAIError
    from fedrai.recipe.sections import Recipe

__all__ = [
    "Alignment",
    "Comparison",
    "FedRAIError",
    "Judged",
    "Recipe",
    "Run",
    "Scan",
    "__version__",
    "align",
    "check_membership",
    "compare",
    "judge",
    "load_recipe",
    "read_alignment",
    "read_run",
    "resume",
    "run",
    "scan",
]
__version__ = "0.1.0"

_ELSEWHERE = {"FedRAIError": "fedrai.errors", "Recipe": "fedrai.recipe.sections"}

# Flower reads the first one when it is first imported; here is the only place that is before that.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """One of the names above, from the module that holds it (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(_ELSEWHERE.get(name, "fedrai.api")), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """The names above, loaded or not."""
    return sorted({*globals(), *__all__})
