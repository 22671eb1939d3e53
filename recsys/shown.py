"""How reports look, printed and as pages: one table and one set of rules for templates."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.table import Table


def table_of(title: str, *columns: str) -> Table:
    """Return an empty table whose first column is of names and whose others are of numbers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=0)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def templates_of(package: str, folder: str = "templates") -> Environment:
    """Return the HTML templates in a folder of `package`; what they are given is escaped, and a name that is missing is an error."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
