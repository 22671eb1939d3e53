"""The registered model: MLflow runs this script ("models from code") to load the model that it sets.

In: rows with `user_id` or `history` (item ids, oldest first), or both. Out: as many rows with `items` and `scores`, best first.
`params={"k": 20}` sets the list length.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from recsys.errors import UsageError
from serving.lookup import Lookup
from serving.recommender import RecommendOptions

LONGEST = 1000
COLUMNS = ("user_id", "history")


class RecommenderModel(PythonModel):  # type: ignore[misc]
    """A bundle behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle among the model's artifacts."""
        from pathlib import Path

        from serving.loading import load_bundle

        self.lookup = Lookup(load_bundle(Path(context.artifacts["bundle"])))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return the recommended items and their scores for every row.

        Raises:
            UsageError: the rows have neither `user_id` nor `history`, or k is not between 1 and 1,000.
        """
        k = int((params or {}).get("k", 20))
        if not 1 <= k <= LONGEST:
            raise UsageError(f"params k={k}: lists have 1 to {LONGEST:,} items")
        if not any(name in model_input.columns for name in COLUMNS):
            raise UsageError("the rows have neither user_id nor history, which say whom the lists are for")
        users, past = (_column(model_input, name) for name in COLUMNS)
        histories = self.lookup.histories(list(zip(users, past, strict=True)))
        ranking = self.lookup.recommender.recommend(histories, RecommendOptions(k))
        items = self.lookup.item_ids(ranking.items)
        scores = [[float(score) for score in row[: len(ids)]] for row, ids in zip(ranking.score, items, strict=True)]
        return pd.DataFrame({"items": items, "scores": scores}, index=model_input.index)


def _column(rows: pd.DataFrame, name: str) -> list[Any]:
    """Return a column's values; None where it is absent, or a value is missing."""
    values = rows[name] if name in rows.columns else [None] * len(rows)
    return [
        list(value) if isinstance(value, list | np.ndarray) else None if pd.isna(value) else value for value in values
    ]


mlflow.models.set_model(RecommenderModel())
