"""The command line: `recsys data|train|tune|evaluate|recommend|serve|scenarios|keys|users`. `recsys --help` lists examples.

One module per group of commands. It imports every package: that happens inside the commands, so that help answers
at once. Results go to stdout, progress to stderr. Exit codes: 0 done, 1 bad input, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import sys
from typing import NoReturn

import click

from recsys import __version__
from recsys.cli import (
    data,
    experiments,
    keys,
    models,
    monitor,
    runs,
    scenarios,
    serve,
    text,
    train,
    tune,
    users,
    versions,
)
from recsys.cli.common import Commands
from recsys.errors import RecsysError
from recsys.packages import require_complete

INTERRUPTED = 130


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recsys")
def cli() -> None:
    """Personalised recommendations from item texts and what users did.

    \b
    Examples:
      recsys data simulate --out shop
      recsys train shop
      recsys evaluate shop --baselines
      recsys recommend shop --k 20 --out lists
      recsys serve
    """
    require_complete()


for command in (
    data.data,
    train.train,
    tune.tune,
    models.evaluate,
    runs.runs,
    versions.models,
    models.recommend,
    models.audience,
    serve.serve,
    monitor.monitor,
    text.text,
    experiments.experiments,
    scenarios.scenarios,
    keys.keys,
    users.users,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; a problem that the user can solve is one line on stderr."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(INTERRUPTED)
    except RecsysError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"error: {error.filename or ''} {error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(0)
