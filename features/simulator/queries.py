"""What people of the simulated shop type into its search, and what they then click.

In: the truth of the shop. Out: the table `queries`. Half of the words are those of titles and categories; the others are in no text of
the shop, so that only clicks can tell what they mean. An item is clicked by taste, of those that are all that was typed.

Shapes: N items, A attributes, S searches.
"""

import numpy as np
import polars as pl

from features.simulator.text import ATTRIBUTES, CATEGORY_NAMES, WORDINGS
from features.simulator.truth import Bools, Floats, Ints, Truth, blocks, click_logits, sigmoid

SEARCHED = 0.3
"""Share of the requests beside which the user searches."""
OWN_WORDS = 0.5
"""Share of the typed words that are the users' own."""
BOTH_LIKED = 0.3
"""Share of the searches for two liked attributes and not one."""

OWN_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "waterproof": ("monsoon", "drizzle"),
    "lightweight": ("airy", "weightless"),
    "compact": ("dinky", "pint-sized"),
    "durable": ("bombproof", "workhorse"),
    "minimalist": ("scandi", "unfussy"),
    "retro": ("throwback", "mid-century"),
    "colourful": ("funky", "tropical"),
    "beginner": ("newbie", "learner"),
    "expert": ("elite", "tournament"),
    "handmade": ("bespoke", "homespun"),
    "recycled": ("greener", "circular"),
    "vegan": ("ethical", "herbivore"),
    "childsafe": ("tot", "bubba"),
    "quiet": ("stealth", "muted"),
    "cosy": ("hygge", "snug"),
    "quick": ("express", "turbo"),
    "wooden": ("rustic", "cabin"),
    "smart": ("techie", "gadget"),
    "elegant": ("posh", "swanky"),
    "sociable": ("crowd", "hangout"),
}
OWN_CATEGORIES: dict[str, tuple[str, ...]] = {
    "running shoes": ("sneakers", "kicks"),
    "coffee makers": ("java", "brew station"),
    "board games": ("tabletop", "parlour"),
    "garden tools": ("allotment", "yard kit"),
    "headphones": ("cans", "earphones"),
    "backpacks": ("rucksack", "carryall"),
    "cookbooks": ("recipes", "foodie"),
    "desk lamps": ("bedside", "luminaire"),
    "yoga mats": ("asana", "wellness"),
    "bicycle parts": ("velo", "cycling"),
    "toys": ("playtime", "kiddo"),
    "skincare": ("cosmetics", "toiletries"),
}
"""The users' own words, none of which any item's text has."""


def query_table(truth: Truth, seed: int) -> pl.DataFrame:
    """Return the searches beside the requests of `truth`, in order of time; the same for the same seed."""
    rng = np.random.default_rng([seed, 1])
    searched = np.flatnonzero(rng.random(len(truth.request_ids)) < SEARCHED)
    texts, wanted = _typed(rng, truth, truth.request_taste[searched])
    times = truth.request_time[searched] + rng.integers(5, 60, len(searched)) * 1_000_000
    items = _clicked(rng, truth, truth.request_taste[searched], wanted, times)
    found = items >= 0
    return pl.DataFrame(
        {
            "query": pl.Series(texts, dtype=pl.String).filter(pl.Series(found)),
            "item_id": truth.item_ids[items[found]].tolist(),
            "timestamp": times[found],
            "user_id": [f"u{row:06d}" for row in truth.request_user[searched[found]]],
        }
    ).sort("timestamp", maintain_order=True)


def _typed(rng: np.random.Generator, truth: Truth, tastes: Ints) -> tuple[list[str], Bools]:
    """Return what is typed by people of the `tastes` `[S]`, and which items `[S, N]` are that."""
    texts, fits = [], np.empty((len(tastes), len(truth.item_ids)), bool)
    for row, taste in enumerate(tastes):
        liked = rng.permutation(np.flatnonzero(truth.taste_likes[taste] > 0))[: 1 + (rng.random() < BOTH_LIKED)]
        category = rng.choice(np.flatnonzero(truth.taste_categories[taste]))
        words = [_one(rng, OWN_ATTRIBUTES[name], WORDINGS[name][0]) for name in (ATTRIBUTES[index] for index in liked)]
        name = CATEGORY_NAMES[category]
        texts.append(" ".join([*words, _one(rng, OWN_CATEGORIES[name], (name,))]))
        fits[row] = (truth.item_category == category) & (truth.item_attributes[:, liked] > 0).all(1)
    return texts, fits


def _one(rng: np.random.Generator, own: tuple[str, ...], known: tuple[str, ...]) -> str:
    words = own if rng.random() < OWN_WORDS else known
    return words[int(rng.integers(len(words)))]


def _clicked(rng: np.random.Generator, truth: Truth, tastes: Ints, fits: Bools, times: Ints) -> Ints:
    """Return which of the items that are there and `fits` `[S, N]` is clicked by each taste `[S]`; -1 where there is none."""
    items = np.full(len(tastes), -1, np.int64)
    for block in blocks(len(tastes), len(truth.item_ids)):
        there = fits[block] & (truth.item_created <= times[block, None])
        chances: Floats = np.where(there, sigmoid(click_logits(truth, tastes[block])), 0)
        # The first to ring among clocks of these rates, as in `shop`.
        rings = rng.standard_exponential(chances.shape, np.float32) / np.maximum(chances, 1e-30)
        items[block] = np.where(there.any(1), rings.argmin(1), -1)
    return items
