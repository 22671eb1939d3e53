"""The first list of a bundle: proof that it can rank, before anybody sees it."""

import numpy as np

from recsys.errors import RecsysError
from serving.loading import read_sentences
from serving.lookup import Lookup
from serving.recommender import RecommendOptions


def require_first_list(name: str, lookup: Lookup) -> None:
    """Rank for nobody and for a history, and encode a sentence, so that nobody waits for slow first calls either.

    Raises:
        RecsysError: the list of `name` has no items or no finite scores.
    """
    for history in ([], lookup.ids[:1]):
        options = RecommendOptions(min(5, len(lookup.ids)))
        ranking = lookup.recommender.recommend(lookup.histories([(None, history)]), options)
        listed = ranking.items >= 0
        if not listed.any() or not np.isfinite(ranking.score[listed]).all():
            raise RecsysError(f"{name}: its first list has no items or no scores; train it again")
    # The int8 encoder is built when the first sentence is encoded.
    read_sentences(lookup.retriever, lookup.bundle.tokenizer, lookup.titles[:1])
