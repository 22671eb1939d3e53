"""The bundle: complete, unaltered, without pickle, and the same after it is read back."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.ranking import ITEM
from recsys.bundle import FORMAT, UPGRADES, read_config, verify
from recsys.errors import RecsysError
from serving.batch import histories_of
from serving.loading import encode_differing_items, load_bundle, read_sentences, save_bundle
from serving.recommender import RecommendOptions
from tests.keep_bundle import KINDS, recommended
from tests.worlds import DAY, catalogue, tiny_bundle, tiny_recommender

KEPT = Path(__file__).parents[1] / "data"
"""Bundles that earlier releases wrote."""


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
    """Nothing is lost when a bundle is written and read."""
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
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(RecsysError, match=rf"1 of \d+ files differ .*{path.name}.*train the model again"):
            load_bundle(copy)
        path.write_bytes(content)
    verify(copy)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("older", UPGRADES)
def test_a_bundle_of_an_earlier_release_gives_the_lists_that_it_gave_then(older: int, kind: str) -> None:
    """For every format that is read: the same items with the same scores."""
    folder = KEPT / f"bundle-format-{older}"
    recorded = json.loads((folder / "lists.json").read_text())[kind]
    lists = recommended(folder / kind)
    assert lists["items"] == recorded["items"]
    np.testing.assert_allclose(lists["scores"], recorded["scores"], atol=1e-5)


def test_a_configuration_of_format_4_is_read_under_the_new_names(tmp_path: Path) -> None:
    """`interest.shown_weight` is `interest.impression_weight` now, and keeps its value."""
    shutil.copytree(KEPT / "bundle-format-4" / "lightgbm", tmp_path / "bundle")
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    config["interest"]["shown_weight"] = 0.125
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path / "bundle").interest.impression_weight == 0.125


def test_a_bundle_without_a_taste_model_is_written_and_read_and_takes_new_items_and_sentences(tmp_path: Path) -> None:
    """So do the bundles of earlier releases, and those that are trained with `sources.taste` at 0."""
    old = load_bundle(KEPT / "bundle-format-5" / "lightgbm")
    _, log, _ = tiny_recommender(tmp_path / "encoder")
    (tmp_path / "again").mkdir()
    save_bundle(tmp_path / "again", old.recommender, old.tokenizer, log, {"dataset": "-", "metrics": {}})
    new = catalogue(["red steel lamp"]).with_columns(item_id=pl.lit("new"))
    lists = []
    for folder in (KEPT / "bundle-format-5" / "lightgbm", tmp_path / "again"):
        bundle = load_bundle(folder, pl.concat([old.recommender.retriever.items, new]))
        retriever = bundle.recommender.retriever
        assert retriever.model.taste is None and retriever.tastes.shape == (len(retriever.vectors), 0)
        histories = histories_of(bundle.recommender, log, [0, 3], int(log.times.max()) + 1)
        histories.items[:, -1] = len(retriever.vectors)
        sentences = read_sentences(retriever, bundle.tokenizer, ["blue table", ""])
        lists.append(bundle.recommender.recommend(histories, RecommendOptions(10), sentences).items)
    assert (lists[0] >= 0).all()
    np.testing.assert_array_equal(lists[1], lists[0])


@pytest.mark.parametrize(
    ("stored", "hint"),
    [
        (min(UPGRADES) - 1, r"; train the model again$"),
        (FORMAT + 1, r"; update recsys-text, or train the model again$"),
    ],
)
def test_a_format_that_is_not_read_is_one_line_with_what_to_do(copy: Path, stored: int, hint: str) -> None:
    """Too old: train again. Too new: update."""
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": stored}))
    for read in (verify, read_config):
        with pytest.raises(RecsysError, match=rf"bundle format {stored}, but .* reads 4, 5, 6{hint}") as raised:
            read(copy)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["missing file", "no manifest", "broken manifest", "no files"])
def test_an_incomplete_bundle_is_one_clear_line(copy: Path, damage: str) -> None:
    """Whatever is wrong, the message names the file and says what to do."""
    manifest = copy / "manifest.json"
    if damage == "missing file":
        (copy / "items.parquet").unlink()
    elif damage == "no manifest":
        manifest.unlink()
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


def _add_a_file(bundle: Path) -> str:
    (bundle / "encoder" / "more.py").write_text("import os")
    return "encoder/more.py"


def _link_a_file(bundle: Path) -> str:
    outside = bundle.parent / "outside"
    (bundle / "items.parquet").rename(outside)
    (bundle / "items.parquet").symlink_to(outside)
    return "items.parquet"


def _link_a_folder(bundle: Path) -> str:
    outside = bundle.parent / "outside"
    (bundle / "encoder").rename(outside)
    (bundle / "encoder").symlink_to(outside)
    return "encoder"


def _list_a_file_outside(bundle: Path) -> str:
    (bundle.parent / "outside").write_text("x")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../outside"] = hashlib.sha256(b"x").hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return "../outside"


def _list_nothing(bundle: Path) -> str:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"files": []}))
    return "manifest.json: not a manifest"


@pytest.mark.parametrize("change", [_add_a_file, _link_a_file, _link_a_folder, _list_a_file_outside, _list_nothing])
def test_a_bundle_holds_the_files_of_its_manifest_and_no_others(
    bundle: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    """Each plain and inside the folder; what is wrong is named."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    named = change(copy)
    with pytest.raises(RecsysError, match=re.escape(named)):
        load_bundle(copy)


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


def unavailable(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items, the first ten not available."""
    return items.with_columns(available=pl.int_range(pl.len()) >= 10)


@pytest.mark.parametrize("changed", [unavailable, lambda items: items.tail(30)], ids=["unavailable", "gone"])
def test_items_that_left_the_catalogue_are_in_no_list(
    bundle: Path, tmp_path: Path, changed: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    """They may be in histories."""
    items = pl.read_parquet(bundle / "items.parquet")
    shrunk = load_bundle(bundle, changed(items)).recommender
    _, log, _ = tiny_recommender(tmp_path / "encoder")
    ranking = shrunk.recommend(histories_of(shrunk, log, [0, 1, -1], int(log.times.max()) + 1), RecommendOptions(30))
    gone = set(range(10))
    assert not gone & set(ranking.items.ravel().tolist())
    assert (ranking.items >= 0).all()


def test_a_longer_list_begins_with_the_shorter_one(tmp_path: Path) -> None:
    """The candidates, and so the scores, do not depend on the length of the list."""
    recommender, log, _ = tiny_recommender(tmp_path)
    histories = histories_of(recommender, log, [0, 1, -1], 100 * DAY)
    short, long = (recommender.recommend(histories, RecommendOptions(k)) for k in (3, 20))
    np.testing.assert_array_equal(long.items[:, :3], short.items)
    np.testing.assert_allclose(long.score[:, :3], short.score, rtol=1e-6)


def test_a_feature_that_came_later_changes_nothing_for_a_ranker_fitted_before(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle names the features of its ranker; one that this version lacks is one clear line."""
    before = load_bundle(bundle).recommender.retriever.features
    monkeypatch.setitem(ITEM, "invented", lambda inputs: inputs.items)
    assert load_bundle(bundle).recommender.retriever.features.names == before.names
    monkeypatch.delitem(ITEM, "popularity")
    with pytest.raises(RecsysError, match=r"1 of \d+ ranking features .* popularity; train the model again"):
        load_bundle(bundle)


def test_known_items_are_as_the_catalogue_has_them_now(bundle: Path) -> None:
    """A new price and new texts count, encoded here or by another process; a column that the catalogue lacks says nothing."""
    items = pl.read_parquet(bundle / "items.parquet")
    row = pl.int_range(pl.len())
    title = pl.when(row == 5).then(pl.lit(items["title"][7])).otherwise("title")
    brand = pl.when(row == 5).then(pl.lit(items["brand"][7])).otherwise("brand")
    price = pl.when(row == 3).then(1000.0).otherwise("price")
    changed = items.with_columns(title=title, brand=brand, price=price).drop("category")
    grown = pl.concat([changed, changed[7:8].with_columns(item_id=pl.lit("new"))])
    old, new = load_bundle(bundle).recommender.retriever, load_bundle(bundle, grown).recommender.retriever
    assert new.price[3] == 1000 and new.items["title"][5] == items["title"][7]
    assert new.vectors[5] @ new.vectors[7] > 0.99 > old.vectors[5] @ old.vectors[7]
    same = np.setdiff1d(np.arange(40), [5])
    np.testing.assert_array_equal(new.vectors[same], old.vectors[same])
    given = load_bundle(bundle, grown, encode_differing_items(bundle, grown)).recommender.retriever
    np.testing.assert_allclose(given.vectors, new.vectors, atol=1e-6)
    assert not len(encode_differing_items(bundle, items.sample(fraction=1, shuffle=True, seed=1)).vectors)
