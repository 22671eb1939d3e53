"""`recsys keys`: create, list and revoke API keys."""

import click

from recsys.cli.common import STORE, Commands


@click.group(cls=Commands)
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "write", "admin"]),
    default=("read",),
    show_default=True,
    help="What the key may do; repeatable.",
)
@STORE
def add_key(name: str, scopes: tuple[str, ...], store: str) -> None:
    """Create a key called NAME and print it. It cannot be printed again.

    \b
    Example:
      recsys keys add shop --scope read --scope write
    """
    from serving.api.access.keys import create_key
    from serving.store.store import Store

    click.echo(create_key(Store(store), name, scopes))


@keys.command("list")
@STORE
def list_keys(store: str) -> None:
    """List all keys without their secrets."""
    from rich.console import Console

    from serving.api.access.keys import table_of
    from serving.store.store import Store

    Console().print(table_of(Store(store)))


@keys.command("revoke")
@click.argument("key_id")
@STORE
def revoke(key_id: str, store: str) -> None:
    """Revoke the key KEY_ID. Running servers refuse it within two seconds.

    \b
    Example:
      recsys keys revoke 1a2b3c4d
    """
    from serving.api.access.keys import revoke_key
    from serving.store.store import Store

    revoke_key(Store(store), key_id)
    click.echo(f"key {key_id} is revoked")
