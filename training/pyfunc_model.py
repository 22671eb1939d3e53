"""The registered model: MLflow runs this script ("models from code") to load the model that it sets.

In: rows with `user_id` and, optionally, `history` (item ids, oldest first). Out: rows with `items`
and `scores`, best first. `params={"k": 20}` sets the list length.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from serving.lookup import Lookup
from serving.recommender import RecommendOptions


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
        """Return the recommended items and their scores for every row."""
        k = int((params or {}).get("k", 20))
        rows = model_input.to_dict("records")
        users = [row.get("user_id") for row in rows]
        past = [row.get("history") for row in rows]
        histories = self.lookup.histories(
            [(user, None if history is None else list(history)) for user, history in zip(users, past, strict=True)]
        )
        ranking = self.lookup.recommender.recommend(histories, RecommendOptions(k))
        items = self.lookup.item_ids(ranking.items)
        scores = [[float(score) for score in row[: len(ids)]] for row, ids in zip(ranking.score, items, strict=True)]
        return pd.DataFrame({"items": items, "scores": scores})


mlflow.models.set_model(RecommenderModel())
