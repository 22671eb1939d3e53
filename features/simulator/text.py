"""The words of the simulated shop: what it sells, and many ways to express each attribute.

In: category, brand and attributes of every item. Out: titles, descriptions and tags. Only titles and
descriptions express an attribute, each time in one of several wordings that share few words, so that a
model has to understand the text in order to know the item.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.texts.items import JOINT

WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "waterproof": (
        ("waterproof", "rainproof", "splash-resistant"),
        (
            "keeps the rain out",
            "is sealed against water",
            "shrugs off a downpour",
            "does not mind getting wet",
            "laughs at puddles",
            "can be left outside in a storm",
            "repels every drop",
        ),
    ),
    "lightweight": (
        ("lightweight", "featherlight", "ultralight"),
        (
            "weighs next to nothing",
            "is easy to lift with two fingers",
            "adds hardly a gram",
            "feels light in the hand",
            "is barely noticeable when carried",
            "tips the scales at almost zero",
            "will never drag you down",
        ),
    ),
    "compact": (
        ("compact", "space-saving", "foldable"),
        (
            "fits into the smallest flat",
            "takes up very little room",
            "folds away into a drawer",
            "is made for tiny spaces",
            "slips into a pocket",
            "saves precious centimetres",
            "hides away when not in use",
        ),
    ),
    "durable": (
        ("durable", "heavy-duty", "rugged"),
        (
            "is built to last for decades",
            "survives rough treatment",
            "hardly ever wears out",
            "takes knocks and drops",
            "holds up year after year",
            "is practically indestructible",
            "will outlive its owner",
        ),
    ),
    "minimalist": (
        ("minimalist", "clean-lined", "pared-back"),
        (
            "has no ornament at all",
            "is reduced to the essentials",
            "keeps to plain, simple lines",
            "says more with less",
            "leaves out everything superfluous",
            "is understated and calm to look at",
            "could hang in a Bauhaus gallery",
        ),
    ),
    "retro": (
        ("retro", "vintage-style", "nostalgic"),
        (
            "looks straight out of the seventies",
            "brings back the old days",
            "has an antique charm",
            "echoes the classics",
            "could have been your grandmother's",
            "revives a design of 1962",
            "winks at the good old times",
        ),
    ),
    "colourful": (
        ("colourful", "rainbow", "vivid"),
        (
            "glows in bright hues",
            "mixes red, yellow and turquoise",
            "is anything but grey",
            "comes in bold shades",
            "lights up like a box of crayons",
            "brightens any dull day",
            "sports orange, pink and lime",
        ),
    ),
    "beginner": (
        ("beginner-friendly", "starter", "entry-level"),
        (
            "asks for no experience",
            "suits people who are just starting",
            "explains every first step",
            "forgives mistakes",
            "is the ideal first try",
            "gets novices going without fuss",
            "needs no prior knowledge",
        ),
    ),
    "expert": (
        ("professional", "expert-grade", "competition"),
        (
            "meets the demands of specialists",
            "is what the pros choose",
            "rewards years of practice",
            "is tuned for masters",
            "is aimed at advanced users",
            "delivers championship results",
            "satisfies the most skilled",
        ),
    ),
    "handmade": (
        ("handmade", "hand-finished", "artisan"),
        (
            "is crafted one at a time in a small workshop",
            "shows the maker's touch",
            "never sees an assembly line",
            "is put together by skilled hands",
            "is made by a craftsman, each one slightly different",
            "is the work of patient artisans",
            "was sewn, sawn or stirred by a person",
        ),
    ),
    "recycled": (
        ("recycled", "upcycled", "planet-friendly"),
        (
            "is made from reclaimed waste",
            "gives old bottles a second life",
            "spares the environment",
            "leaves a small carbon footprint",
            "started out as scrap",
            "is kind to the earth",
            "turns rubbish into something useful",
        ),
    ),
    "vegan": (
        ("vegan", "plant-based", "cruelty-free"),
        (
            "contains nothing from animals",
            "is free of leather, milk and wax",
            "was never tested on animals",
            "relies on plants only",
            "is approved by animal lovers",
            "uses no ingredient with a face",
            "swaps hide and honey for botanical stuff",
        ),
    ),
    "childsafe": (
        ("kid-safe", "child-proof", "toddler-approved"),
        (
            "has no sharp edges for little ones",
            "is harmless for small children",
            "passes the strictest nursery tests",
            "puts parents at ease",
            "can be handed to a three-year-old",
            "has no parts that could be swallowed",
            "survives curious kids and spares them bruises",
        ),
    ),
    "quiet": (
        ("quiet", "silent", "low-noise"),
        (
            "makes no sound",
            "will not wake the neighbours",
            "is hushed as a library",
            "whispers where others roar",
            "can be used next to a sleeping baby",
            "is as still as snowfall",
            "produces less than twenty decibels",
        ),
    ),
    "cosy": (
        ("cosy", "plush", "super-soft"),
        (
            "is gentle to the touch",
            "feels like a warm blanket",
            "is cushioned all over",
            "pampers you on cold evenings",
            "makes you want to snuggle up",
            "wraps you in fluff",
            "is padded for pure comfort",
        ),
    ),
    "quick": (
        ("quick", "speedy", "rapid"),
        (
            "is done within minutes",
            "saves a lot of time",
            "is fast from the first second",
            "suits busy mornings",
            "needs no more than a moment",
            "gets results in no time",
            "cuts the waiting short",
        ),
    ),
    "wooden": (
        ("wooden", "oak", "timber"),
        (
            "is carved from solid beech",
            "shows its natural grain",
            "smells of the forest",
            "is turned from walnut",
            "comes from sustainably felled trees",
            "has a warm maple finish",
            "is joined from ash and cherry planks",
        ),
    ),
    "smart": (
        ("smart", "app-connected", "intelligent"),
        (
            "talks to your phone",
            "learns your habits by itself",
            "pairs over bluetooth",
            "can be controlled by voice",
            "updates itself over wifi",
            "has sensors and a clever chip",
            "is run from a tablet",
        ),
    ),
    "elegant": (
        ("elegant", "luxurious", "deluxe"),
        (
            "adds a touch of glamour",
            "looks precious with its golden details",
            "is fit for a palace",
            "impresses every guest",
            "exudes sophistication",
            "would please a queen",
            "is all velvet and shine",
        ),
    ),
    "sociable": (
        ("party", "family-size", "group"),
        (
            "is best shared with friends",
            "brings everyone together",
            "serves the whole household",
            "is fun in company",
            "turns any evening into a gathering",
            "is meant for four or more people",
            "gets unknown users talking",
        ),
    ),
}
"""Attribute -> (wordings for titles, wordings for descriptions)."""

ATTRIBUTES = tuple(WORDINGS)


@dataclass(frozen=True)
class Category:
    """One shelf of the shop."""

    department: str
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]
    """What an item of this category may be."""
    median_price: float
    """In euros."""


def _category(department: str, nouns: str, attributes: str, median_price: float) -> Category:
    return Category(department, tuple(nouns.split(", ")), tuple(attributes.split()), median_price)


CATEGORIES: dict[str, Category] = {
    "running shoes": _category(
        "sport",
        "trail shoe, road runner, racing flat, jogging shoe, track spike, training shoe",
        "waterproof lightweight durable minimalist retro colourful beginner expert recycled vegan cosy quick",
        95,
    ),
    "coffee makers": _category(
        "kitchen",
        "espresso machine, french press, filter machine, moka pot, pour-over set, coffee grinder",
        "compact durable minimalist retro colourful beginner expert handmade quiet quick smart elegant",
        80,
    ),
    "board games": _category(
        "leisure",
        "strategy game, card game, dice game, puzzle game, trivia game, tile game",
        "waterproof compact retro colourful beginner expert handmade recycled childsafe quick wooden sociable",
        32,
    ),
    "garden tools": _category(
        "garden",
        "pruning shear, hand trowel, hedge trimmer, leaf rake, garden hose, digging spade",
        "waterproof lightweight compact durable colourful beginner expert handmade recycled quiet wooden smart",
        38,
    ),
    "headphones": _category(
        "electronics",
        "headset, pair of earbuds, studio headphone, gaming headset, neckband, on-ear headphone",
        "waterproof lightweight compact durable minimalist retro colourful expert recycled childsafe cosy smart",
        110,
    ),
    "backpacks": _category(
        "travel",
        "day pack, hiking pack, laptop bag, roll-top, school bag, weekender",
        "waterproof lightweight compact durable minimalist retro colourful expert handmade recycled vegan elegant",
        70,
    ),
    "cookbooks": _category(
        "books",
        "soup book, baking book, pasta book, salad book, street food book, bread book",
        "compact minimalist retro colourful beginner expert recycled vegan childsafe quick elegant sociable",
        26,
    ),
    "desk lamps": _category(
        "home",
        "reading lamp, clamp lamp, banker's lamp, task light, swing-arm lamp, night light",
        "lightweight compact durable minimalist retro colourful handmade recycled childsafe wooden smart elegant",
        48,
    ),
    "yoga mats": _category(
        "sport",
        "yoga mat, pilates mat, meditation cushion, yoga block, stretching strap, balance pad",
        "waterproof lightweight compact durable minimalist colourful beginner expert recycled vegan cosy elegant",
        36,
    ),
    "bicycle parts": _category(
        "sport",
        "saddle, handlebar, pedal set, bottle cage, chain ring, bicycle bell",
        "waterproof lightweight durable minimalist retro colourful expert handmade recycled vegan quiet smart",
        42,
    ),
    "toys": _category(
        "leisure",
        "building set, toy train, puppet, shape sorter, marble run, pull-along animal",
        "waterproof durable retro colourful beginner handmade recycled childsafe quiet cosy wooden sociable",
        28,
    ),
    "skincare": _category(
        "beauty",
        "face cream, hand balm, body lotion, cleansing bar, eye serum, lip balm",
        "waterproof lightweight compact minimalist beginner expert handmade recycled vegan childsafe quick elegant",
        22,
    ),
}

BRANDS = [
    "Norvik",
    "Aldera",
    "Tumbrel",
    "Quenta",
    "Fjordia",
    "Basko",
    "Lumero",
    "Ottavo",
    "Pellion",
    "Zephra",
    "Garlund",
    "Mirosa",
    "Tavik",
    "Evandor",
    "Klarup",
    "Solwyn",
    "Brindel",
    "Castova",
    "Dunmar",
    "Elvaro",
    "Farrow",
    "Gestalt",
    "Hollin",
    "Ibarra",
    "Jorvane",
    "Kestwick",
    "Lorimer",
    "Mandeo",
    "Nuvoli",
    "Orbist",
    "Pascoe",
    "Quillon",
    "Rovano",
    "Sunderby",
    "Torvald",
    "Umbria",
    "Velden",
    "Wexley",
    "Yarrow",
    "Zandor",
]

_MODELS = [
    "Swift",
    "Harbour",
    "Atlas",
    "Juno",
    "Ember",
    "Cedar",
    "Nova",
    "Pico",
    "Orion",
    "Willow",
    "Delta",
    "Comet",
    "Fable",
    "Grove",
    "Hazel",
    "Indigo",
    "Jasper",
    "Koda",
    "Luna",
    "Meridian",
    "Nimbus",
    "Opal",
    "Pioneer",
    "Quartz",
    "River",
    "Sierra",
    "Terra",
    "Unity",
    "Vega",
    "Wander",
    "Xenia",
    "Yonder",
    "Zenith",
    "Aurora",
    "Breeze",
    "Coral",
]

_CLOSINGS = (
    "Ships within two days.",
    "Comes with a two-year guarantee.",
    "Returns are free.",
    "Available in our stores.",
    "Includes a printed manual.",
    "Delivered in a paper box.",
    "Designed in Rotterdam.",
    "Rated highly by our customers.",
    "Spare parts are available.",
    "Sold singly.",
    "Gift wrapping on request.",
    "Limited stock.",
)

CATEGORY_NAMES = tuple(CATEGORIES)

ALLOWED = np.array([[name in category.attributes for name in ATTRIBUTES] for category in CATEGORIES.values()])
"""`[categories, attributes]` what an item of each category may be."""


@dataclass(frozen=True)
class Texts:
    """The words of N items."""

    titles: list[str]
    descriptions: list[str]
    tags: list[list[str]]


def write_texts(
    rng: np.random.Generator, categories: NDArray[np.integer], brands: NDArray[np.integer], has: NDArray[np.bool_]
) -> Texts:
    """Write the words of N items of `categories` `[N]` and `brands` `[N]` with the attributes `has` `[N, A]`."""
    texts = Texts([], [], [])
    for category, brand, row in zip(categories, brands, has, strict=True):
        shelf = CATEGORIES[CATEGORY_NAMES[category]]
        noun = _one(rng, shelf.nouns)
        attributes = [ATTRIBUTES[index] for index in rng.permutation(np.flatnonzero(row))]
        texts.titles.append(_title(rng, BRANDS[brand], noun, attributes))
        texts.descriptions.append(_description(rng, noun, attributes))
        texts.tags.append([noun, shelf.department])
    return texts


def _title(rng: np.random.Generator, brand: str, noun: str, attributes: list[str]) -> str:
    # Four titles in ten keep every attribute for the description.
    adjective = _one(rng, WORDINGS[attributes[0]][0]) if attributes and rng.random() < 0.6 else ""
    model = f"{_one(rng, _MODELS)} {rng.integers(1, 100)}"
    return " ".join(f"{brand} {model} {adjective} {noun}".split())


def _description(rng: np.random.Generator, noun: str, attributes: list[str]) -> str:
    says = [_one(rng, WORDINGS[name][1]) for name in attributes]
    opening = f"This {noun} {' and '.join(says[:2])}." if says else f"A {noun} for every day."
    return " ".join([opening, *(f"It {more}." for more in says[2:]), _one(rng, _CLOSINGS)])


def _one(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def mentions(title: str, description: str, has: NDArray[np.bool_]) -> list[tuple[int, int, str]]:
    """Return where an item's title and description, joined by `JOINT`, express its attributes `has` `[A]`: start, end, attribute."""
    found = []
    for name in (ATTRIBUTES[index] for index in np.flatnonzero(has)):
        for offset, text, wordings in zip((0, len(title + JOINT)), (title, description), WORDINGS[name], strict=True):
            for words in wordings:
                at = text.find(words)
                if at >= 0:
                    found.append((offset + at, offset + at + len(words), name))
    return sorted(found)
