"""What ranking features mean, in words for people who do not know their names.

In: the names of `features.ranking`. Out: a few words each.
"""

from features.context import OF_EVENT, OF_USER
from training.evaluation.details import SOURCE

HOUR = "time of the day"
WORDS = {
    "popularity": "events of the item",
    "purchases": "purchases of the item",
    "price": "price",
    "text_length": "length of its text",
    "history_length": "length of the history",
    "distinct_share": "variety of the history",
    "price_level": "the user's usual price",
    "seen": "how often the user met it",
    "seen_back": "how recently the user met it",
    "price_gap": "price against the user's usual one",
    "similarity_last": "similarity to the latest event",
    "similarity_mean": "similarity to the whole history",
    "similarity_best": "similarity to the nearest event",
    "taste_mean": "words that suit the whole history",
    "attribute_mean": "attributes like the history's",
    "attribute_category": "attributes like its category's events",
    "attribute_best": "attributes of the nearest event of its category",
    "taste_category": "words that suit its category's events",
    "taste_best": "words that suit one event",
    "brand_share": "brand's share of the history",
    "category_share": "category's share of the history",
    "brand_last": "brand of the latest event",
    "category_last": "category of the latest event",
    "popularity_1d": "events of the last day",
    "popularity_7d": "events of the last 7 days",
    "popularity_30d": "events of the last 30 days",
    "age": "age of the item",
    "seen_age": "days since the user met it",
    "last_age": "days since the user's last event",
    "hour_sin": HOUR,
    "hour_cos": HOUR,
    "weekend": "weekend or not",
    "opinion": "what texts say of the item",
    "opinion_count": "texts that say something of the item",
    "opinion_trend": "what texts say lately against before",
    "brand": "which brand",
    "category": "which category",
    "last_type": "kind of the latest event",
    "session_events": "events of the session",
    "session_brand_share": "brand's share of the session",
    "session_category_share": "category's share of the session",
    "session_age": "minutes since the session began",
}
SOURCES = {
    "interest": "vector near the user's",
    "purchase": "vector near what is bought",
    "taste": "words that the user likes",
    "covisitation": "chosen by the same users",
    "lexical": "words of the history",
    "related": "same brand or category",
    "popular": "chosen by many",
    "trending": "chosen by more than usual",
    "new": "new, and near the user",
}
"""What the scores of sources mean."""


def in_words(feature: str) -> str:
    """Return what `feature` means; an attribute of the items is its own name."""
    for form in ("relative_", "rank_", SOURCE):
        if feature.startswith(form):
            name = feature.removeprefix(form)
            return f"{SOURCES[name]} ({name})" if name in SOURCES else f"score of the source {name}"
    for form, what in ((OF_EVENT, "of the request"), (OF_USER, "of the user")):
        if feature.startswith(form):
            return f"{feature.removeprefix(form)} {what}"
    return WORDS.get(feature, feature)
