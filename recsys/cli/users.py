"""`recsys users`: forget users, and show what is stored of one."""

import json
from pathlib import Path

import click

from recsys.cli.common import STORE, Commands, File
from recsys.errors import UsageError


@click.group(cls=Commands)
def users() -> None:
    """Forget users, and show what is stored of one."""


@users.command()
@click.argument("user_id", nargs=-1)
@click.option("--users", "file", type=File, help="File of user ids (a table with user_id, or one id per line).")
@STORE
def forget(user_id: tuple[str, ...], file: Path | None, store: str) -> None:
    """Delete the events and lists of users from the store.

    Running servers ignore from then on what their models were fitted on of them, lists that wait to be written stay
    out, and `recsys data export` leaves them out. Datasets and older bundles are yours to clean (docs/privacy.md).

    \b
    Examples:
      recsys users forget u000001 u000002
      recsys users forget --users gone.csv
    """
    from features.data.user_ids import read_users
    from serving.store.store import Store

    named = [*user_id, *(read_users(file) if file else [])]
    if not named:
        raise UsageError("no user; name one or more, or give --users FILE")
    opened = Store(store)
    deleted = sum(opened.forget_user(user) for user in named)
    click.echo(f"forgot {len(named):,} users: deleted {deleted:,} events and lists")


@users.command()
@click.argument("user_id")
@STORE
def show(user_id: str, store: str) -> None:
    """Print all that the store has of a user, as JSON.

    \b
    Example:
      recsys users show u000001
    """
    from serving.store.store import Store

    click.echo(json.dumps(Store(store).everything_of(user_id), ensure_ascii=False, indent=1))
