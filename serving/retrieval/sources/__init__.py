"""All candidate sources by the names that the configuration uses for their quotas."""

from serving.retrieval.sources.base import (
    Candidates,
    CandidateSource,
    Catalogue,
    FitContext,
    RequestBatch,
    Scores,
    Sentences,
)
from serving.retrieval.sources.graphs import CovisitationSource, LexicalSource, RelatedSource
from serving.retrieval.sources.popular import PopularSource, TrendingSource
from serving.retrieval.sources.taste import TasteSource
from serving.retrieval.sources.vectors import InterestSource, NewSource

SOURCES: dict[str, type[CandidateSource]] = {
    source.name: source
    for source in (
        InterestSource,
        TasteSource,
        CovisitationSource,
        LexicalSource,
        PopularSource,
        TrendingSource,
        RelatedSource,
        NewSource,
    )
}

__all__ = [
    "SOURCES",
    "CandidateSource",
    "Candidates",
    "Catalogue",
    "FitContext",
    "RequestBatch",
    "Scores",
    "Sentences",
    "TrendingSource",
]
