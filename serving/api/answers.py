"""From a ranking to the items of a response, with the reasons for each.

In: a `Ranking` of one request. Out: `RankedItem`s of `serving.api.schemas`.
"""

from fastapi import Response
from pydantic import BaseModel

from features.histories import Histories
from recsys.arrays import Floats
from serving.api import schemas
from serving.lookup import Lookup
from serving.reasons import nearest_items, strongest_features
from serving.recommender import Ranking


def listed_items(lookup: Lookup, histories: Histories, ranking: Ranking) -> list[schemas.RankedItem]:
    """Return the items of `ranking`, which holds one list, with reasons if it has contributions."""
    columns = (ranking.items[0], ranking.score[0], ranking.interest[0], ranking.p_click[0], ranking.p_purchase[0])
    items = [
        schemas.RankedItem(lookup.ids[item], lookup.titles[item], score, interest, click, purchase)
        for item, score, interest, click, purchase in zip(*(column.tolist() for column in columns), strict=True)
        if item >= 0
    ]
    if not ranking.valued:
        for item in items:
            item.p_click = item.p_purchase = None
    if ranking.contributions is not None:
        for item, contributions in zip(items, ranking.contributions[0], strict=False):
            item.reasons = _reasons(lookup, histories, lookup.rows[item.item_id], contributions)
    return items


def written(answer: BaseModel) -> Response:
    """Return the response with `answer` as JSON; FastAPI would check once more that it is what the route documents."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _reasons(lookup: Lookup, histories: Histories, row: int, contributions: Floats) -> schemas.Reasons:
    """Return the reasons for the item `row`, whose features contributed `contributions` `[F]`."""
    retriever = lookup.retriever
    nearest = [
        schemas.SimilarItem(item_id=lookup.ids[item], title=lookup.titles[item], similarity=similarity)
        for item, similarity in nearest_items(retriever, histories.items[0], row)
    ]
    features = [
        schemas.Contribution(feature=name, log_odds=log_odds)
        for name, log_odds in strongest_features(retriever.feature_names, contributions)
    ]
    return schemas.Reasons(nearest=nearest, features=features)
