"""Item texts without markup: what the encoder, the lexical source and the API see of them.

In: texts as shops keep them, `<p>5 &amp; 6</p>`. Out: the text alone, `5 & 6`. Only what is surely HTML is touched:
entities that end in a semicolon, comments, and tags of HTML's own names. `AT&T`, `<3` and `3 < 4 & 5 > 2` stay.

The result is text and not HTML: a page that shows it has to escape it again.
"""

import html

import polars as pl

TEXT_COLUMNS = ("title", "description", "tags", "brand", "category")

ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});"

TAGS = (
    "a|abbr|acronym|address|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blockquote|body|br|button|"
    "canvas|caption|center|cite|code|col|colgroup|data|dd|del|details|dfn|dialog|dir|div|dl|dt|em|embed|fieldset|"
    "figcaption|figure|font|footer|form|frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html|i|iframe|img|"
    "input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|meter|nav|nobr|noscript|object|ol|optgroup|"
    "option|output|p|param|picture|pre|progress|q|rp|rt|ruby|s|samp|script|search|section|select|slot|small|"
    "source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|time|"
    "title|tr|track|tt|u|ul|var|video|wbr"
)

ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=(?:"[^"]*"|'[^']*'|[^"'<>])*)?"""
"""From the first `name=` on; `a <b and c> d` has none."""

UNSHOWN = rf"(?is)<style{ATTRIBUTES}\s*>.*?(?:</style\s*>|\z)|<script{ATTRIBUTES}\s*>.*?(?:</script\s*>|\z)|<!--.*?-->"
TAG = rf"(?i)</?(?:{TAGS}|[a-z]\w*:\w+){ATTRIBUTES}\s*/?>|<!doctype\s[^<>]*>|<\?xml\s[^<>]*>"


def plain_items(items: pl.DataFrame) -> pl.DataFrame:
    """Return `items` with their texts, of which any column may be absent, as `plain` returns them."""
    return items.with_columns(plain(items[name]) for name in TEXT_COLUMNS if name in items.columns)


def plain(texts: pl.Series) -> pl.Series:
    """Return `texts`, or lists of them, with entities decoded once and then without tags, style sheets and scripts.

    White space is joined where something was removed or decoded; other texts stay as they are.
    """
    listed = isinstance(texts.dtype, pl.List)
    flat = texts.explode() if listed else texts
    if not flat.str.contains_any(["<", "&"]).any():
        return texts
    entities = flat.str.extract_all(ENTITY).explode().drop_nulls().unique()
    text = pl.element() if listed else pl.col(texts.name)
    characters = entities.map_elements(html.unescape, pl.String)
    decoded = text.str.replace_many(entities.implode(), characters.implode())
    bare = decoded.str.replace_all(UNSHOWN, " ").str.replace_all(TAG, " ")
    joined = bare.str.replace_all(r"\s+", " ").str.strip_chars()
    result = pl.when(bare == text).then(text).otherwise(joined)
    return texts.list.eval(result) if listed else texts.to_frame().select(result.alias(texts.name)).to_series()
