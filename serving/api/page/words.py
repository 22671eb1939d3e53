"""Reasons in words: why an item is in a list, for people.

In: the reasons of `serving.api.schemas`, and what the user did. Out: sentences, strongest first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from features.ranking import USER
from serving.api import schemas

SIMILAR = 0.5
"""Cosine from which on two items are called similar."""
PHRASES = 2
"""Sentences about features of an item; the user's items come first."""

DID = {
    "view": "viewed",
    "click": "clicked",
    "like": "liked",
    "share": "shared",
    "comment": "commented on",
    "cart": "put into the cart",
    "purchase": "bought",
    "dislike": "disliked",
    "hide": "hid",
}
"""Event types as something that a user did."""

FEATURES = {
    "interest": "fits the interests",
    "purchase": "fits what leads to purchases",
    "taste": "described in a way that the user likes",
    "attribute": "has attributes of what is in the history",
    "lexical": "shares words with the history or the sentence",
    "covisitation": "often met together with what is in the history",
    "related": "well known in a brand or category of the history",
    "popular": "popular",
    "popularity": "popular",
    "purchases": "bought often",
    "price": "a price that fits",
    "seen": "in the history",
    "similarity": "similar to the history",
    "new": "new",
    "age": "new",
    "brand": "a brand that fits",
    "category": "a category that fits",
    "session": "fits what the user does now",
    "context": "fits the circumstances",
    "user": "fits what is known of the user",
}
"""What the features of a family say in favour of an item; those of the user alone say nothing about it."""


@dataclass(frozen=True)
class Sentence:
    """A reason: words, an item's title where it is about one, and more words."""

    before: str
    title: str = ""
    after: str = ""


def sentences(item: schemas.RankedItem, did: Mapping[str, str], companion: tuple[str, str] | None) -> list[Sentence]:
    """Return the reasons for an item.

    `did` has what the user did, an event type by item, where that may be shown; `companion` is the id and the title of the
    item of the history that others met together with this one.
    """
    if item.reasons is None:
        return []
    near = _nearest(item.reasons)
    said = [] if near is None else [_of_nearest(item.item_id, near, did)]
    if companion is not None and near is not None and companion[0] == near.item_id:
        said = [replace(said[0], after=f"{said[0].after}, and often met together with this")]
    elif companion is not None:
        said.append(Sentence("often met together with ", companion[1]))
    return said + [Sentence(phrase) for phrase in _of_features(item.reasons.features, bool(said))]


def _nearest(reasons: schemas.Reasons) -> schemas.SimilarItem | None:
    """Return the item of the history that is most similar, where any is."""
    return next((near for near in reasons.nearest if near.similarity >= SIMILAR), None)


def _of_nearest(item_id: str, near: schemas.SimilarItem, did: Mapping[str, str]) -> Sentence:
    what = DID.get(did.get(near.item_id, ""))
    if near.item_id == item_id:
        return Sentence(f"the user {what} it before" if what else "in the history")
    return Sentence("like ", near.title, f", which the user {what}" if what else "")


def _of_features(features: Sequence[schemas.Contribution], has_items: bool) -> list[str]:
    """Return what the features in favour of an item say; what items of the history have said is not repeated."""
    said = ("seen", "similarity", "covisitation") if has_items else ()
    families = [family(each.feature) for each in features if each.log_odds > 0 and each.feature not in USER]
    return list(dict.fromkeys(FEATURES[name] for name in families if name in FEATURES and name not in said))[:PHRASES]


def family(feature: str) -> str:
    """Return what the name of a feature has in common with others: `taste` of `relative_taste` and `taste_best`."""
    bare = feature.removeprefix("relative_").removeprefix("rank_")
    return bare if bare in FEATURES else bare.partition("_")[0]
