"""Plain files: CSV, TSV, `.dat`, JSONL or Parquet under the usual names, with the usual column names.

In: a folder with items and events (and users and queries). Out: the same in the contract's columns. Columns of
other names are named with `--column ours=theirs`, event types with `--option event_mapping=theirs=ours;...`.
"""

from dataclasses import replace
from pathlib import Path

from features.data.formats import KINDS, kind_of, scan, without_broken_lines
from features.importers.base import Imported
from features.importers.named import NamedTablesImporter, Source
from features.importers.names import FILES
from recsys.errors import Problems, RecsysError
from recsys.schema import OPTIONAL, TABLES, read_info


class FilesImporter(NamedTablesImporter):
    """Finds tables by the usual names of their files."""

    name = "files"
    description = "CSV, TSV, .dat, JSONL or Parquet files of items, events, users and queries"

    def read(self, src: Path) -> Imported:
        problems = Problems()
        paths: dict[str, Path] = {}
        sources: dict[str, Source] = {}
        broken: dict[str, Path] = {}
        for table in TABLES:
            with problems.noted():
                if path := _find(src, table):
                    paths[table] = path
                    if self.keeps_unread:
                        paths[table], broken[path.name] = without_broken_lines(path, self.scratch)
                    sources[table] = Source(str(path), scan(paths[table]))
        imported = self.imported(sources, read_info(src), problems)
        return replace(imported, paths=paths, broken_lines=broken)


def _find(src: Path, table: str) -> Path | None:
    """Return the file, or the folder of Parquet files, with one of the usual names of a table; None where it may be missing and is."""
    there = sorted(src.iterdir()) if src.is_dir() else []
    paths = [path for path in there if path.name.lower().split(".")[0] in FILES[table] and _is_table(path)]
    if len(paths) > 1:
        raise RecsysError(f"{src}: both {paths[0].name} and {paths[1].name} could be the {table}; keep one")
    if not paths and table not in OPTIONAL:
        names = ", ".join(path.name for path in there[:8]) or "nothing"
        raise RecsysError(
            f"{src}: no {table} file: looked for {', '.join(FILES[table])} ending in {', '.join(KINDS)} or .gz; found {names}"
        )
    return paths[0] if paths else None


def _is_table(path: Path) -> bool:
    return any(path.rglob("*.parquet")) if path.is_dir() else kind_of(path) is not None
