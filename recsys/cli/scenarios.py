"""`recsys scenarios`: named kinds of list, kept in the store with all their versions."""

from pathlib import Path

import click

from recsys.cli.common import MODEL, STORE, Commands, File

VERSION = click.option(
    "--version", type=click.IntRange(1), help="A version.  [default: the one that is on, else the latest]"
)


@click.group(cls=Commands)
def scenarios() -> None:
    """Store, preview and switch on scenarios: named kinds of list, such as home or email.

    A scenario says which items lists of its kind have and in which order: filters, boosts, pins, promotions, caps and
    more (docs/scenarios.md). Running servers follow within a second.

    \b
    Examples:
      recsys scenarios set home home.toml
      recsys scenarios preview home --user u000001
      recsys scenarios on home
    """


@scenarios.command("list")
@STORE
def list_scenarios(store: str) -> None:
    """List all scenarios: the version that is on, else the latest."""
    from rich.console import Console

    from serving.scenarios.kept import overview, shown_version, table_of
    from serving.store.store import Store

    opened = Store(store)
    names = [name for name, _, _ in overview(opened.scenarios())]
    Console().print(table_of([shown_version(opened, name) for name in names]))


@scenarios.command("show")
@click.argument("name")
@VERSION
@STORE
def show(name: str, version: int | None, store: str) -> None:
    """Print the scenario NAME as JSON, which `set` reads if it is kept in a file.

    \b
    Example:
      recsys scenarios show home > home.json
    """
    import json

    from serving.scenarios.kept import shown_version
    from serving.store.store import Store

    click.echo(json.dumps(shown_version(Store(store), name, version).definition, indent=1, ensure_ascii=False))


@scenarios.command("set")
@click.argument("name")
@click.argument("file", type=File)
@MODEL
@STORE
def set_scenario(name: str, file: Path, model: str, store: str) -> None:
    """Store FILE (TOML, or JSON if it ends in .json) as a further version of the scenario NAME, which is not on yet.

    Rules that no item of the model's catalogue meets are named.

    \b
    Example:
      recsys scenarios set home home.toml
    """
    from recsys.registry import bundle_folder, resolve
    from serving.scenarios.applied import notes_of, served_offer
    from serving.scenarios.definition import checked_name, read_scenario
    from serving.store.store import Store

    name, scenario, bundle = checked_name(name), read_scenario(file), bundle_folder(resolve(model))
    opened = Store(store)
    notes = notes_of(scenario, served_offer(bundle, opened.item_changes()))
    version = opened.add_scenario(name, scenario.as_json())
    click.echo(f"{name}: version {version} is stored; `recsys scenarios on {name}` switches it on")
    for note in notes:
        click.echo(f"  {note}")


@scenarios.command("preview")
@click.argument("name")
@click.option("--user", help="Whose list.  [default: somebody unknown]")
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 200), help="Items of the list.")
@click.option("--file", type=File, help="A draft, in place of what is stored.")
@VERSION
@MODEL
@STORE
def preview(
    *, name: str, user: str | None, k: int, file: Path | None, version: int | None, model: str, store: str
) -> None:
    """Print the list that the scenario NAME makes, whether it is on or not; the list is not kept.

    \b
    Examples:
      recsys scenarios preview home --user u000001
      recsys scenarios preview home --user u000001 --file home.toml
    """
    from rich.console import Console
    from rich.table import Table

    from recsys.progress import stage
    from serving.api import schemas
    from serving.api.live import ModelHolder
    from serving.api.service import preview as preview_service
    from serving.scenarios.definition import checked_name, read_scenario
    from serving.store.store import Store

    name, draft, opened = checked_name(name), read_scenario(file) if file else None, Store(store)
    request = schemas.RecommendRequest(user_id=user, k=k)
    body = schemas.PreviewRequest(request=request, definition=draft, version=None if draft else version)
    with stage(f"loading {model}"):
        service = preview_service(ModelHolder(model, opened), opened)
    answer = service.preview_scenario(name, body)
    table = Table("position", "item", "score", "title")
    for position, item in enumerate(answer.items, 1):
        table.add_row(str(position), item.item_id, f"{item.score:.4f}", item.title)
    Console().print(table)
    for note in answer.notes:
        click.echo(f"  {note}")


@scenarios.command("on")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="A version.  [default: the latest]")
@STORE
def switch_on(name: str, version: int | None, store: str) -> None:
    """Switch on a version of the scenario NAME, in place of the one that was on.

    \b
    Examples:
      recsys scenarios on home
      recsys scenarios on home --version 2
    """
    from serving.scenarios import kept
    from serving.store.store import Store

    chosen = kept.switch_on(Store(store), name, version)
    click.echo(f"{name}: version {chosen.version} is on")


@scenarios.command("off")
@click.argument("name")
@STORE
def switch_off(name: str, store: str) -> None:
    """Switch the scenario NAME off; requests that name it are refused then."""
    from serving.scenarios import kept
    from serving.store.store import Store

    kept.switch_off(Store(store), name)
    click.echo(f"{name} is off")


@scenarios.command("rollback")
@click.argument("name")
@STORE
def roll_back(name: str, store: str) -> None:
    """Switch on the version of the scenario NAME that was on before."""
    from serving.scenarios import kept
    from serving.store.store import Store

    chosen = kept.roll_back(Store(store), name)
    click.echo(f"{name}: version {chosen.version} is on")


@scenarios.command("history")
@click.argument("name")
@STORE
def history(name: str, store: str) -> None:
    """List all versions of the scenario NAME."""
    from rich.console import Console

    from serving.scenarios.kept import table_of, versions
    from serving.store.store import Store

    Console().print(table_of(versions(Store(store), name)))


@scenarios.command("delete")
@click.argument("name")
@STORE
def delete(name: str, store: str) -> None:
    """Delete the scenario NAME with all its versions."""
    from serving.scenarios import kept
    from serving.store.store import Store

    click.echo(f"{name}: {kept.delete(Store(store), name)} versions are deleted")
