"""Guards, judges, rules and the like that an installed package offers by a Python entry point.

    [project.entry-points."fedrai.guards"]
    wordlist = "my_package:make_guard"

A name that is not built in is looked up here. Looking names up imports nothing; a package is
imported only when one of its names is used. See docs/extending.md.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from fedrai.errors import DependencyError, FedRAIError

Group = Literal[
    "fedrai.guards",
    "fedrai.judges",
    "fedrai.aggregation",
    "fedrai.defences",
    "fedrai.attacks",
    "fedrai.vetting",
    "fedrai.suites",
]


def names(group: Group) -> list[str]:
    """The names that installed packages offer in a group, sorted; nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=group)})


def installed(group: Group) -> str:
    """The installed names of a group, for an error message."""
    return f"installed plug-ins: {', '.join(names(group)) or 'none'}"


def package(group: Group, name: str) -> str:
    """The package that offers a name, with its version, or all that do; nothing is imported."""
    return " and ".join(sorted(set(map(_package, entry_points(group=group, name=name)))))


def make(group: Group, name: str, **settings: Any) -> Any:
    """Import a plug-in and call it.

    Args:
        group: group of the entry point.
        name: name of the entry point.
        settings: its keyword arguments.

    Raises:
        DependencyError: it does not exist, cannot be imported, or fails when called.
        FedRAIError: raised by the plug-in itself.
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
            hint="install its requirements, correct its settings, or uninstall it",
        ) from error


def _entry(group: Group, name: str) -> EntryPoint:
    entries = list(entry_points(group=group, name=name))
    if not entries:
        raise DependencyError(f"no installed package offers {name!r}", hint=installed(group))
    if len(set(map(_package, entries))) > 1:
        raise DependencyError(
            f"{name!r} ({group}) is offered by {package(group, name)}",
            hint="uninstall one of them",
        )
    return entries[0]


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
