"""Importers: datasets in the formats that people have, turned into the contract's folder."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from features.importers.amazon import AmazonImporter
from features.importers.base import Importer, ImportReport, without_duplicates, write_dataset
from features.importers.files import FilesImporter
from features.importers.mind import MindImporter
from features.importers.movielens import MovieLensImporter
from features.importers.recbole import RecBoleImporter
from features.importers.remote import local_copy
from features.importers.sql import SqlImporter
from recsys.errors import UsageError, suggest

IMPORTERS: dict[str, type[Importer]] = {
    importer.name: importer
    for importer in (FilesImporter, SqlImporter, MovieLensImporter, MindImporter, AmazonImporter, RecBoleImporter)
}


def import_dataset(
    fmt: str,
    src: str | Path,
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    drop_duplicates: bool = False,
    quarantine: bool = False,
) -> ImportReport:
    """Read `src`, a path or an address such as `s3://bucket/folder`, in the format `fmt` and write the dataset folder `out`.

    Equal events are kept unless they are to be dropped. What cannot be read or violates a rule is an error, or goes to
    the folder `quarantine` in `out`.

    Raises:
        UsageError: an unknown format.
        RecsysError: the source is not of that format, or `out` is not empty.
    """
    if fmt not in IMPORTERS:
        raise UsageError(f"unknown format {fmt!r}{suggest(fmt, list(IMPORTERS))}")
    importer = IMPORTERS[fmt]
    with TemporaryDirectory() as scratch, local_copy(str(src)) as folder:
        reader = importer(importer.parse_options(options or {}), columns, Path(scratch), quarantine)
        imported = reader.read(folder)
        return write_dataset(without_duplicates(imported) if drop_duplicates else imported, out, quarantine)
