"""A model for notebooks: what it recommends, finds and explains, as data frames.

In: ids of users and items, histories as item ids, sentences. Out: polars tables with a row per item, best first.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from features.histories import Histories
from recsys.errors import UsageError
from recsys.registry import bundle_folder, resolve
from serving.filters import matching, read_conditions
from serving.lists import lists_table
from serving.loading import load_bundle, read_sentences
from serving.lookup import Lookup
from serving.reasons import nearest_items
from serving.recommender import ItemFilter, Ranking, RecommendOptions
from serving.retrieval.sources import Sentences


class Model:
    """A loaded model. It knows the users and items of its training; `recsys serve` takes in what happens since."""

    def __init__(self, name: str) -> None:
        """Load what `name` stands for now: a registered model or a bundle folder.

        Raises:
            RecsysError: no such model, or its bundle is damaged.
        """
        self.name = resolve(name)
        self._lookup = Lookup(load_bundle(bundle_folder(self.name)))
        self._ids = np.array(self._lookup.ids, dtype=object)

    def __repr__(self) -> str:
        """Say which model it is, and how much it knows."""
        return f"<{self.name}: {len(self._lookup.ids):,} items, {len(self._lookup.users):,} users>"

    @property
    def items(self) -> pl.DataFrame:
        """The catalogue as of the training."""
        return self._lookup.retriever.items

    @property
    def users(self) -> pl.Series:
        """The ids of the users with a history."""
        return self._lookup.bundle.users["user_id"]

    def history(self, user: str) -> pl.DataFrame:
        """Return the latest events of `user` before the end of the training data, oldest first; none of an unknown user."""
        past = self._lookup.past(user)
        rows = [self._lookup.rows[event.item_id] for event in past]
        times = [event.timestamp for event in past]
        clock = pl.Datetime("us", "UTC") if self._lookup.retriever.has_clock else pl.Int64()
        return pl.DataFrame(
            {
                "item_id": pl.Series([event.item_id for event in past], dtype=pl.String),
                "title": pl.Series([self._lookup.titles[row] for row in rows], dtype=pl.String),
                "event_type": pl.Series([event.event_type for event in past], dtype=pl.String),
                "timestamp": pl.Series(times, dtype=pl.Int64).cast(clock),
            }
        )

    def recommend(
        self,
        user: str | Sequence[str] | None = None,
        *,
        history: Sequence[str] | None = None,
        query: str | None = None,
        k: int = 20,
        where: Sequence[str] = (),
        exclude_seen: bool | None = None,
        diversity: float | None = None,
    ) -> pl.DataFrame:
        """Return the list of a user, or those of several; of item ids that are a history; of a sentence; or of anybody.

        `where` has conditions such as `"price<=20"` or `"category=skincare"`; `exclude_seen` and `diversity` (0 to 1) are the
        model's own by default.

        Returns:
            user_id, rank, item_id, title, score, interest, p_click, p_purchase.

        Raises:
            UsageError: `k` is below 1, an id of the history is unknown, or a condition does not fit the items.
        """
        self._require_positive(k)
        users = [user] if user is None or isinstance(user, str) else list(user)
        sentences = None if query is None else self._sentences(query, len(users))
        histories = self._histories(users, history, typed=query is not None)
        options = RecommendOptions(k, self._filter(where), exclude_seen, diversity)
        return self._table(users, self._lookup.recommender.recommend(histories, options, sentences))

    def rank(
        self, candidates: Sequence[str], user: str | None = None, *, history: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return the `candidates` in the order that is best for a user or a history; the columns of `recommend`.

        Raises:
            UsageError: a candidate, or an id of the history, is unknown.
        """
        items = np.array([self._rows(candidates, "candidates")], np.int64)
        return self._table([user], self._lookup.recommender.rank(self._histories([user], history), items))

    def search(self, query: str, *, k: int = 20, where: Sequence[str] = ()) -> pl.DataFrame:
        """Return the items that match the sentence `query` best, those of exactly this title first.

        Returns:
            The columns of `recommend`; `rank` is the order of the matches, which is not that of `score`.
        """
        self._require_positive(k)
        sentences, allowed = self._sentences(query, 1), self._filter(where)
        found = self._lookup.found(query, sentences, k, allowed.allowed if allowed else None)
        ranking = self._lookup.recommender.rank(
            self._histories([None], [], typed=True), found[None], sentences=sentences
        )
        return self._table([None], ranking.in_order_of(found))

    def similar(self, item: str, *, k: int = 20) -> pl.DataFrame:
        """Return the items nearest to `item`: rank, item_id, title, similarity (cosine of their vectors)."""
        self._require_positive(k)
        neighbours, cosines = self._lookup.retriever.similar(
            self._rows([item], "item")[0], k, self._lookup.moment(None)
        )
        return self._named(neighbours.tolist()).with_columns(similarity=cosines).with_row_index("rank", offset=1)

    def explain(self, item: str, user: str | None = None, *, history: Sequence[str] | None = None) -> pl.DataFrame:
        """Return why `item` would stand in a list: every feature, and what it adds to the log odds of a click, largest first.

        Returns:
            feature, log_odds. `nearest` has the items of the history that are most like it.
        """
        candidates = np.array([self._rows([item], "item")], np.int64)
        ranking = self._lookup.recommender.rank(self._histories([user], history), candidates, explain=True)
        assert ranking.contributions is not None  # explain
        counted = {"feature": self._lookup.retriever.feature_names, "log_odds": ranking.contributions[0, 0]}
        return pl.DataFrame(counted).sort(pl.col("log_odds").abs(), descending=True)

    def nearest(self, item: str, user: str | None = None, *, history: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the items of a history that are most like `item`: item_id, title, similarity, the nearest first."""
        past = self._histories([user], history).items[0]
        near = nearest_items(self._lookup.retriever, past, self._rows([item], "item")[0])
        similarities = pl.Series([similarity for _, similarity in near], dtype=pl.Float32)
        return self._named([row for row, _ in near]).with_columns(similarity=similarities)

    def _histories(self, users: Sequence[str | None], history: Sequence[str] | None, typed: bool = False) -> Histories:
        if history is not None:
            self._rows(history, "history")
        return self._lookup.histories([(user, history) for user in users], typed=typed)

    def _sentences(self, query: str, count: int) -> Sentences:
        return read_sentences(self._lookup.retriever, self._lookup.bundle.tokenizer, [query] * count)

    def _filter(self, where: Sequence[str]) -> ItemFilter | None:
        if not where:
            return None
        conditions = read_conditions(where, self.items.schema, "where: ")
        return ItemFilter(repr(where), matching(self.items, conditions, "where: "))

    def _rows(self, ids: Sequence[str], what: str) -> list[int]:
        """Return the rows of items.

        Raises:
            UsageError: the model does not know some of them, or got one text instead of a list of ids.
        """
        if isinstance(ids, str):
            raise UsageError(f"{what}: a list of item ids is needed, not the text {ids!r}; write [{ids!r}]")
        unknown = [item for item in ids if item not in self._lookup.rows]
        if unknown:
            raise UsageError(
                f"{what}: {len(unknown)} of {len(ids)} are no items of {self.name}, for example {unknown[0]!r}; `items` of the "
                "model has its items"
            )
        return [self._lookup.rows[item] for item in ids]

    def _table(self, users: Sequence[str | None], ranking: Ranking) -> pl.DataFrame:
        lists = lists_table(users, ranking, self._ids)
        titles = self.items.select("item_id", "title")
        columns = ["user_id", "rank", "item_id", "title", "score", "interest", "p_click", "p_purchase"]
        return lists.join(titles, on="item_id", how="left", maintain_order="left").select(columns)

    def _named(self, rows: Sequence[int]) -> pl.DataFrame:
        return self.items.select("item_id", "title")[list(rows)]

    @staticmethod
    def _require_positive(k: int) -> None:
        if k < 1:
            raise UsageError(f"k={k}: a list has at least one item")
