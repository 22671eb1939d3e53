"""Users whose lists two models disagree about most."""

from pathlib import Path

from serving.model import Model
from tests.worlds import with_config
from training.evaluation.examples import FEWEST, most_changed


def test_the_lists_with_the_least_in_common_come_first(tiny: Path, tmp_path: Path) -> None:
    """Each with the user's history and both lists, as the models make them; a model and itself agree."""
    first, other = Model(str(tiny)), Model(str(with_config(tiny, tmp_path / "other", lists={"diversity": 0.9})))
    changed = most_changed(first, other, 5)
    shared = [one.shared for one in changed]
    assert shared == sorted(shared) and shared[0] < 10
    one = changed[0]
    assert list(one.before) == first.recommend(one.user_id, k=10)["item_id"].to_list()
    assert list(one.after) == other.recommend(one.user_id, k=10)["item_id"].to_list()
    assert one.history[0] == first.history(one.user_id)["title"][-1] and len(one.history) >= FEWEST
    assert {one.shared for one in most_changed(first, first, 3)} == {10}
