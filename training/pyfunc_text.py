"""The registered text head: MLflow runs this script ("models from code") to load the model that it sets.

In: rows with `text`. Out: as many rows with what the head says of each text.
"""

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class TextHeadModel(PythonModel):  # type: ignore[misc]
    """A text head behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle among the model's artifacts."""
        from pathlib import Path

        from serving.text.loading import load_reader

        self.reader = load_reader(Path(context.artifacts["bundle"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return a row per text; its columns are those of the head's kind."""
        found = self.reader.table(model_input["text"].tolist())
        return pd.DataFrame(found.to_dict(as_series=False), index=model_input.index)


mlflow.models.set_model(TextHeadModel())
