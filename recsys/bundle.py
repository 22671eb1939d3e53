"""The bundle: one folder with everything that serving needs, and a manifest of what is in it.

In: a folder that parts have been saved into. Out: the same folder sealed by `manifest.json`, which
holds the SHA-256 of every file and is verified before anything is loaded. No pickle is in it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from recsys import __version__
from recsys.config import Config
from recsys.errors import RecsysError

FORMAT = 4
MANIFEST = "manifest.json"
CONFIG = "config.json"


def seal(folder: Path, config: Config, about: dict[str, Any]) -> None:
    """Write the resolved configuration and the manifest, which turns `folder` into a bundle.

    `about` says where it comes from: dataset name, fingerprint, seed, what it was fitted on.
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


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of the bundle against its manifest and return the manifest.

    Raises:
        RecsysError: no bundle, another format, or files that are missing, altered or not listed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise RecsysError(f"{folder}: not a bundle (no {MANIFEST}); make one with `recsys train DATASET`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        listed: dict[str, str] = manifest["files"]
        found_format = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecsysError(f"{path}: not a manifest ({error!r}); fetch or train the model again") from error
    if found_format != FORMAT:
        raise RecsysError(f"{path}: bundle format {found_format}, this version reads {FORMAT}; train the model again")
    wrong = [
        name for name, digest in listed.items() if not (folder / name).is_file() or _digest(folder / name) != digest
    ]
    if wrong:
        raise RecsysError(
            f"{folder}: {len(wrong)} of {len(listed)} files differ from the manifest, for example {wrong[0]}; "
            "the bundle is damaged: fetch or train the model again"
        )
    return manifest


def read_config(folder: Path) -> Config:
    """Return the resolved configuration that the bundle was trained with."""
    return Config.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
