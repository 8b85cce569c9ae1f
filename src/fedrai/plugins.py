"""Guards, rules and the like that an installed package offers by a Python entry point.

    [project.entry-points."fedrai.guards"]
    wordlist = "my_package:make_guard"

A name that is not built in is looked up here. Names cost nothing; a package is imported when one of
its names is used, and only then. See docs/extending.md.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from fedrai.errors import DependencyError, FedRAIError

Group = Literal[
    "fedrai.guards", "fedrai.judges", "fedrai.aggregation", "fedrai.defences", "fedrai.suites"
]


def names(group: Group) -> list[str]:
    """What installed packages offer in a group, in the order of the names; nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=group)})


def installed(group: Group) -> str:
    """What is installed, for an error."""
    return f"installed plug-ins: {', '.join(names(group)) or 'none'}"


def package(group: Group, name: str) -> str:
    """The package that offers a name, with its version, or all that do; nothing is imported."""
    found = entry_points(group=group, name=name)
    return " and ".join(sorted(set(map(_package, found))))


def make(group: Group, name: str, **settings: Any) -> Any:
    """Import a plug-in and call it.

    Args:
        group: of the entry point.
        name: of the entry point.
        settings: what it is called with.

    Raises:
        DependencyError: it is not there, cannot be imported, or fails when it is called.
        FedRAIError: it raises one itself.
    """
    entry = _entry(group, name)
    try:
        return entry.load()(**settings)
    except FedRAIError:
        raise
    except Exception as error:
        raise DependencyError(
            f"the plug-in {name!r} ({group}) of {_package(entry)} fails: "
            f"{type(error).__name__}: {error}",
            hint="install what it needs, correct its settings, or uninstall it",
        ) from error


def _entry(group: Group, name: str) -> EntryPoint:
    found = list(entry_points(group=group, name=name))
    if not found:
        raise DependencyError(f"no installed package offers {name!r}", hint=installed(group))
    if len(set(map(_package, found))) > 1:
        raise DependencyError(
            f"{name!r} ({group}) is offered by {package(group, name)}",
            hint="uninstall one of them",
        )
    return found[0]


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
