"""The bundle: one folder with everything that serving needs, and a manifest of its files.

In: a folder that holds the saved parts. Out: the same folder, sealed by `manifest.json`, which names the
format and the SHA-256 of every file and is verified before anything is loaded. No file is a pickle.

A bundle of the previous release still loads: `UPGRADES` has one step for each older format that is read.
See `docs/decisions/009-the-bundles-format.md`.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys import __version__
from recsys.config import Config
from recsys.errors import RecsysError

FORMAT = 6
MANIFEST = "manifest.json"
CONFIG = "config.json"
TEXT_HEAD = "head.json"
"""What a text head says of itself; a recommender has no such file."""
NOT_A_TEXT_HEAD = "a recommender, not a text head; train one with `recsys text train`"
NOT_A_RECOMMENDER = (
    "a text head, which reads texts (`recsys text read`), not a recommender; name a model of `recsys train`"
)

RawConfig = dict[str, dict[str, Any]]
"""`config.json` as it is in the file: section -> key -> value."""


def _from_4(config: RawConfig) -> RawConfig:
    """`interest.shown_weight` was renamed to `interest.impression_weight`."""
    names = {"shown_weight": "impression_weight"}
    return config | {"interest": {names.get(key, key): value for key, value in config["interest"].items()}}


def _from_5(config: RawConfig) -> RawConfig:
    """Bundles had no taste model."""
    return config | {"sources": config["sources"] | {"taste": 0}}


UPGRADES: dict[int, Callable[[RawConfig], RawConfig]] = {4: _from_4, 5: _from_5}
"""Format -> what turns a configuration of this format into one of the next."""


def seal(folder: Path, config: Config, about: dict[str, Any]) -> None:
    """Write the resolved configuration and the manifest, which turns `folder` into a bundle.

    `about` is added to the manifest: the dataset's name and fingerprint, the seed, what the model was fitted on.
    """
    (folder / CONFIG).write_text(config.model_dump_json(indent=1), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest = {
        "format": FORMAT,
        "code_version": __version__,
        **about,
        "files": {path.relative_to(folder).as_posix(): _digest(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def verify(folder: Path, text_head: bool = False) -> dict[str, Any]:
    """Check every file of the bundle of a recommender, or of a `text_head`, against its manifest and return the manifest.

    Its files are those of the manifest and no others, each a plain file inside the folder.

    Raises:
        RecsysError: there is no bundle, it is of the other kind, its format is not supported, or files are missing, altered or too many.
    """
    manifest = _read_manifest(folder)
    if (TEXT_HEAD in manifest["files"]) != text_head:
        raise RecsysError(f"{folder}: {NOT_A_TEXT_HEAD if text_head else NOT_A_RECOMMENDER}")
    listed: dict[str, str] = manifest["files"]
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    wrong = sorted(there ^ {*listed, MANIFEST}) + [
        name for name in listed if name in there and not _is_as_listed(folder, name, listed[name])
    ]
    if wrong:
        raise RecsysError(
            f"{folder}: {len(wrong)} of {len(listed)} files differ from the manifest, for example {wrong[0]}; "
            "the bundle is damaged: fetch it again, or train the model again"
        )
    return manifest


def _is_as_listed(folder: Path, name: str, digest: str) -> bool:
    """Return whether a file has the digest and is reached without links."""
    path = folder / name
    parts = [path, *path.parents][: len(Path(name).parts)]
    return path.is_file() and not any(part.is_symlink() for part in parts) and _digest(path) == digest


def read_config(folder: Path) -> Config:
    """Return the resolved configuration that the bundle was trained with, in the terms of this release.

    Raises:
        RecsysError: there is no bundle, or its format is not supported.
    """
    stored = _read_manifest(folder)["format"]
    config: RawConfig = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for older in range(stored, FORMAT):
        config = UPGRADES[older](config)
    return Config.model_validate(config)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle whose format this release reads."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RecsysError(f"{folder}: not a bundle (no {MANIFEST}); make one with `recsys train DATASET`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stored, files = int(manifest["format"]), manifest["files"]
        if not (isinstance(files, dict) and files and all(isinstance(digest, str) for digest in files.values())):
            raise ValueError("files: not a name and a digest each")
    except (ValueError, KeyError, TypeError) as error:
        raise RecsysError(f"{path}: not a manifest ({error!r}); fetch the bundle or train the model again") from error
    if stored != FORMAT and stored not in UPGRADES:
        hint = "update recsys-text, or train the model again" if stored > FORMAT else "train the model again"
        readable = ", ".join(str(number) for number in (*sorted(UPGRADES), FORMAT))
        raise RecsysError(f"{path}: bundle format {stored}, but recsys-text {__version__} reads {readable}; {hint}")
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
