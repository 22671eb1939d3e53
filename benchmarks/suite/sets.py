"""The data sets of the suite, and what was published on their splits.

In: the folder of the real data and, for MovieLens-100K, that of its RecBole files. Out: a dataset folder.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from features.importers.base import write_dataset
from features.importers.recbole import RecBoleImporter
from features.simulator.shop import simulate
from recsys.config import WORK as PROJECT_WORK
from recsys.errors import RecsysError
from training.plan import FitOn

WORK = PROJECT_WORK / "suite"
"""Everything that was measured, made or exported, a folder a data set."""


@dataclass(frozen=True)
class Places:
    """Where the user keeps data."""

    data: Path
    """Holds a dataset folder for each real data set."""
    movielens: Path | None = None
    """RecBole atomic files of MovieLens-100K."""


@dataclass(frozen=True)
class DataSet:
    """A data set, and what is fitted on it."""

    find: Callable[[str, Places], Path]
    """Returns the dataset folder of a name; raises RecsysError where there is none."""
    fits: tuple[FitOn, ...] = ("train+valid",)
    note: str = ""


def real(name: str, places: Places) -> Path:
    """Return a dataset folder of the user."""
    folder = places.data / name
    if not folder.is_dir():
        raise RecsysError(f"{folder}: no such folder; name its parent with --data")
    return folder


def shop(users: int, items: int, seed: int) -> Callable[[str, Places], Path]:
    """Return what simulates a shop, once."""

    def find(name: str, places: Places) -> Path:
        folder = WORK / name / "data"
        if not folder.exists():
            simulate(folder, users=users, items=items, seed=seed)
        return folder

    return find


def movielens(name: str, places: Places) -> Path:
    """Return MovieLens-100K as a dataset folder, imported once; its files prescribe no split, so each user's last event is test."""
    folder = WORK / name / "data"
    if not folder.exists():
        if places.movielens is None:
            raise RecsysError(
                "its licence forbids to redistribute it; name the folder of its RecBole files with --movielens"
            )
        imported = RecBoleImporter().read(places.movielens)
        imported = replace(imported, info=imported.info.model_copy(update={"name": name, "split": "leave-last"}))
        write_dataset(imported, folder)
    return folder


SETS = {
    "amazon-industrial": DataSet(real, ("train", "train+valid")),
    "amazon-beauty": DataSet(real, ("train",)),
    "nemig": DataSet(real),
    "shop-2000": DataSet(shop(2000, 1500, seed=7), note="Simulated: 2,000 users, 1,500 items, seed 7."),
    "shop-8000": DataSet(shop(8000, 1500, seed=3), note="Simulated: 8,000 users, 1,500 items, seed 3."),
    "movielens-100k": DataSet(movielens, note="Ratings of 4 and 5 are likes, others views; leave-last."),
}

Rows = dict[str, tuple[float, float]]
"""hr@10 and ndcg@10 by model."""

PUBLISHED: dict[str, dict[str, Rows]] = {
    "amazon-industrial": {
        "arXiv 2510.24431, fitted on 36,259 rows": {
            "MiniOneRec": (0.1586, 0.1167), "S-DPO": (0.1524, 0.1082), "D3": (0.1500, 0.1082), "BIGRec": (0.1370, 0.0997),
            "LC-Rec": (0.1332, 0.0952), "TIGER": (0.1321, 0.0908), "HSTU": (0.1163, 0.0958), "SASRec": (0.1088, 0.0806),
            "GRU4Rec": (0.0999, 0.0669), "Caser": (0.0942, 0.0628),
        },
    },
    "amazon-beauty": {
        "S³-Rec, arXiv 2008.07873": {
            "S³-Rec": (0.0647, 0.0327), "SASRec": (0.0605, 0.0318), "HGN": (0.0512, 0.0266), "FDSA": (0.0407, 0.0208),
            "Caser": (0.0347, 0.0176), "BERT4Rec": (0.0347, 0.0170), "GRU4Rec": (0.0283, 0.0137), "PopRec": (0.0152, 0.0068),
        },
        "slides in GRAM's repository": {
            "GRAM": (0.0890, 0.0531), "FDSA": (0.0777, 0.0478), "LC-Rec": (0.0715, 0.0420), "IDGenRec": (0.0665, 0.0393),
            "TIGER": (0.0533, 0.0294),
        },
        "its own paper": {"TIGER": (0.0648, 0.0384)},
    },
}  # fmt: skip
"""By data set and source; papers disagree on shared rows and may read more text than we have."""


def best_published(name: str) -> tuple[str, float, float] | None:
    """Return model, hr@10 and ndcg@10 of the published row with the highest ndcg@10."""
    rows = [(model, *row) for source in PUBLISHED.get(name, {}).values() for model, row in source.items()]
    return max(rows, key=lambda row: row[2], default=None)
