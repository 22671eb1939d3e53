"""Importers: datasets in the formats that people have, turned into the contract's folder."""

from collections.abc import Mapping
from pathlib import Path

from features.importers.amazon import AmazonImporter
from features.importers.base import Importer, ImportReport, without_duplicates, write_dataset
from features.importers.files import FilesImporter
from features.importers.mind import MindImporter
from features.importers.movielens import MovieLensImporter
from features.importers.recbole import RecBoleImporter
from recsys.errors import RecsysError, UsageError, suggest

IMPORTERS: dict[str, type[Importer]] = {
    importer.name: importer
    for importer in (FilesImporter, MovieLensImporter, MindImporter, AmazonImporter, RecBoleImporter)
}


def import_dataset(
    fmt: str,
    src: Path,
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    drop_duplicates: bool = False,
) -> ImportReport:
    """Read `src` in the format `fmt` and write the dataset folder `out`; equal events are kept unless they are to be dropped.

    Raises:
        UsageError: an unknown format.
        RecsysError: the source is not of that format, or `out` is not empty.
    """
    if fmt not in IMPORTERS:
        raise UsageError(f"unknown format {fmt!r}{suggest(fmt, list(IMPORTERS))}")
    if not src.exists():
        raise RecsysError(f"{src}: no such file or folder")
    importer = IMPORTERS[fmt]
    imported = importer(importer.parse_options(options or {}), columns).read(src)
    return write_dataset(without_duplicates(imported) if drop_duplicates else imported, out)
