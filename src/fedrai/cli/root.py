"""The command `fedrai`: its commands, and how errors become a line and an exit code.

Nothing heavy is imported before a command needs it. Exit codes: 0 done; 1 the run could not
continue; 2 something that the user gave cannot be used; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys

import click

from fedrai import __version__
from fedrai.captured_log import captured
from fedrai.cli.align import align
from fedrai.cli.assets import assets_group
from fedrai.cli.chat import chat_command
from fedrai.cli.compare import compare
from fedrai.cli.constitution import constitution
from fedrai.cli.deploy import deploy
from fedrai.cli.eval import eval_command
from fedrai.cli.export import export
from fedrai.cli.guards import guard
from fedrai.cli.judge import judge
from fedrai.cli.lm_eval import lm_eval
from fedrai.cli.node import node
from fedrai.cli.privacy import privacy
from fedrai.cli.recipe import recipe_group
from fedrai.cli.release import release_command, sign_command, verify_command
from fedrai.cli.report import report
from fedrai.cli.run import run_command
from fedrai.cli.runs import runs_command
from fedrai.cli.scan import scan
from fedrai.cli.suites import suites
from fedrai.errors import FederationError, FedRAIError

COMMANDS = (
    run_command, node, align, eval_command, scan, guard, constitution, deploy, suites, judge,
    lm_eval, privacy, release_command, sign_command, verify_command, export, report, compare,
    chat_command, runs_command, recipe_group, assets_group,
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fedrai")
def cli() -> None:
    """Federated fine-tuning of large language models that stays safe."""


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point: turns errors into one line each and an exit code."""
    _quiet_libraries()
    with captured():
        code = _exit_code()
    sys.exit(code)


def _exit_code() -> int:
    code: object
    try:
        code = cli.main(prog_name="fedrai", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except FedRAIError as error:
        click.secho(f"error: {error.message}", fg="red", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        code = 1 if isinstance(error, FederationError) else 2
    return code if isinstance(code, int) else 0


def _quiet_libraries() -> None:
    """Libraries draw no progress bars beside ours, and the hub's sends no telemetry."""
    rarely = {} if sys.stderr.isatty() else {"TQDM_MININTERVAL": "30"}  # of lm-evaluation-harness
    for key, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **rarely,
    }.items():
        os.environ.setdefault(key, value)
