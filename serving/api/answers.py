"""From a ranking to the items of a response, with the reasons for each.

In: a `Ranking` of one request. Out: `RankedItem`s of `serving.api.schemas`.
"""

import numpy as np

from features.histories import Histories
from recsys.arrays import Floats
from serving.api import schemas
from serving.lookup import Lookup
from serving.recommender import Ranking

NEAREST = 3
"""Events of the history that are given as reasons for an item."""
STRONGEST = 5
"""Features that are given as reasons for an item."""


def listed_items(lookup: Lookup, histories: Histories, ranking: Ranking) -> list[schemas.RankedItem]:
    """Return the items of `ranking`, which holds one list, with reasons if it has contributions."""
    columns = (ranking.items[0], ranking.score[0], ranking.interest[0], ranking.p_click[0], ranking.p_purchase[0])
    items = [
        schemas.RankedItem(
            item_id=lookup.ids[item],
            title=lookup.titles[item],
            score=score,
            interest=interest,
            p_click=click,
            p_purchase=purchase,
        )
        for item, score, interest, click, purchase in zip(*(column.tolist() for column in columns), strict=True)
        if item >= 0
    ]
    if ranking.contributions is not None:
        for item, contributions in zip(items, ranking.contributions[0], strict=False):
            item.reasons = _reasons(lookup, histories, lookup.rows[item.item_id], contributions)
    return items


def _reasons(lookup: Lookup, histories: Histories, row: int, contributions: Floats) -> schemas.Reasons:
    """Return the events of the history nearest to the item `row`, and the features with the largest `contributions` `[F]`."""
    retriever = lookup.retriever
    past = np.unique(histories.items[0])
    past = past[(past >= 0) & (past < len(lookup.ids))]
    similarities = retriever.vectors[past] @ retriever.vectors[row]
    order = np.argsort(-similarities, kind="stable")[:NEAREST]
    nearest = [
        schemas.SimilarItem(item_id=lookup.ids[item], title=lookup.titles[item], similarity=float(similarity))
        for item, similarity in zip(past[order], similarities[order], strict=True)
    ]
    names = retriever.feature_names
    strongest = [
        schemas.Contribution(feature=names[index], log_odds=float(contributions[index]))
        for index in np.argsort(-np.abs(contributions), kind="stable")[:STRONGEST]
        if contributions[index]
    ]
    return schemas.Reasons(nearest=nearest, features=strongest)
