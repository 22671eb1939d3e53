"""Files in object storage: `s3://bucket/folder` or `gs://bucket/folder`.

In: an address, and credentials where each provider's tools look for them (the environment, `~/.aws`). Out: a folder on this
machine while the body runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys.errors import RecsysError, first_line

SCHEMES = ("s3", "gs")


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """Give the body the folder or file at `address`: a local path as it is, a remote folder as a temporary copy.

    Raises:
        RecsysError: there is no such file or folder, or the storage cannot be reached.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        path = Path(address)
        if not path.exists():
            raise RecsysError(f"{address}: no such file or folder")
        yield path
        return
    if scheme not in SCHEMES:
        known = " or ".join(f"{name}://" for name in SCHEMES)
        raise RecsysError(f"{address}: cannot be read; give a path on this machine, or one that begins with {known}")
    with TemporaryDirectory() as folder:
        copy = Path(folder) / address.rstrip("/").rpartition("/")[2]
        _copy(address, copy)
        yield copy


def _copy(address: str, folder: Path) -> None:
    from pyarrow import fs

    try:
        storage, path = fs.FileSystem.from_uri(address)
        if storage.get_file_info(path).type == fs.FileType.NotFound:
            raise RecsysError(f"{address}: no such folder")
        folder.mkdir()
        fs.copy_files(path, str(folder), source_filesystem=storage, destination_filesystem=fs.LocalFileSystem())
    except OSError as error:
        reason = first_line(error)
        raise RecsysError(f"{address}: {reason}; check the address, the credentials and AWS_ENDPOINT_URL") from error
