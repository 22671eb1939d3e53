"""The bundle: complete, unaltered, without pickle, and the same after reading it back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.bundle import verify
from recsys.errors import RecsysError
from serving.batch import histories_of
from serving.loading import load_bundle
from serving.recommender import RecommendOptions
from tests.worlds import DAY, catalogue, tiny_bundle, tiny_recommender


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small bundle."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    shutil.copytree(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_loaded_bundle_gives_the_very_lists_of_the_recommender_it_was_saved_from(
    bundle: Path, tmp_path: Path
) -> None:
    """Nothing is lost on the way through the folder."""
    recommender, log, _ = tiny_recommender(tmp_path / "encoder")
    loaded = load_bundle(bundle).recommender
    histories = histories_of(recommender, log, [0, 3, -1], int(log.times.max()) + 1)
    # Both rankers are untrained: put the same weights in.
    recommender = replace(recommender, ranker=loaded.ranker)
    one, other = (each.recommend(histories, RecommendOptions(10)) for each in (recommender, loaded))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_allclose(one.score, other.score, rtol=1e-4)


def test_one_changed_byte_in_any_file_is_noticed(copy: Path) -> None:
    """Every file is under the manifest."""
    for path in sorted(path for path in copy.rglob("*") if path.is_file() and path.name != "manifest.json"):
        content = path.read_bytes()
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(RecsysError, match=rf"1 of \d+ files differ .*{path.name}.*train the model again"):
            load_bundle(copy)
        path.write_bytes(content)
    verify(copy)


@pytest.mark.parametrize("damage", ["missing file", "no manifest", "other format", "broken manifest", "no files"])
def test_an_incomplete_bundle_is_one_clear_line(copy: Path, damage: str) -> None:
    """Whatever is wrong, the message names the place and a hint."""
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    if damage == "missing file":
        (copy / "items.parquet").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "other format":
        manifest.write_text(json.dumps(content | {"format": 99}))
    elif damage == "broken manifest":
        manifest.write_text("{")
    else:
        manifest.write_text("[]")
    with pytest.raises(RecsysError, match="train") as raised:
        load_bundle(copy)
    assert "\n" not in str(raised.value)


def test_no_file_of_a_bundle_is_a_pickle(bundle: Path) -> None:
    """Weights are safetensors, arrays npz without objects, tables Parquet."""
    kinds = {path.suffix for path in bundle.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".npz", ".npy", ".parquet", ".faiss", ".txt"}
    for path in bundle.rglob("*.npy"):
        np.load(path, allow_pickle=False)
    for path in bundle.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert [arrays[name] for name in arrays.files]


def test_an_unseen_item_is_a_candidate_from_its_text_alone(bundle: Path) -> None:
    """An item that nobody has touched is found for a user of its twin, right after loading."""
    known = pl.read_parquet(bundle / "items.parquet")
    twin = known.row(7, named=True)
    new = catalogue([twin["title"]], brand=[twin["brand"]]).with_columns(item_id=pl.lit("new"))
    grown = load_bundle(bundle, pl.concat([known, new])).recommender.retriever
    row = grown.items["item_id"].to_list().index("new")
    assert grown.vectors[row] @ grown.vectors[7] > 0.99
    index = grown.sources["interest"].catalogue_index
    assert index is not None and row in index.search(grown.vectors[7:8], 3)[0]


def test_items_that_left_the_catalogue_are_in_no_list(bundle: Path, tmp_path: Path) -> None:
    """They may be in histories."""
    items = pl.read_parquet(bundle / "items.parquet")
    shrunk = load_bundle(bundle, items.tail(30)).recommender
    _, log, _ = tiny_recommender(tmp_path / "encoder")
    ranking = shrunk.recommend(histories_of(shrunk, log, [0, 1, -1], int(log.times.max()) + 1), RecommendOptions(30))
    gone = set(range(10))
    assert not gone & set(ranking.items.ravel().tolist())
    assert (ranking.items >= 0).all()


def test_a_longer_list_begins_with_the_shorter_one(tmp_path: Path) -> None:
    """The candidates, and so the scores, do not depend on how many items are requested."""
    recommender, log, _ = tiny_recommender(tmp_path)
    histories = histories_of(recommender, log, [0, 1, -1], 100 * DAY)
    short, long = (recommender.recommend(histories, RecommendOptions(k)) for k in (3, 20))
    np.testing.assert_array_equal(long.items[:, :3], short.items)
    np.testing.assert_allclose(long.score[:, :3], short.score, rtol=1e-6)
