"""The command line: one file a command, which parses arguments and prints."""

from fedrai.cli.root import cli, main

__all__ = [
    "cli",
    "main",
]
