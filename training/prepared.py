"""A dataset made ready for training: split, as a log, its catalogue as tokens.

In: a dataset and the configuration. Out: `Prepared`, which all fits share.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from features.context import refuse_unknown_columns
from features.data.dataset import Dataset
from features.data.validate import judge_texts
from features.facts import refuse_no_numbers
from features.histories import EventLog, read_log
from features.opinions import refuse_bad_opinions
from features.tokens import item_tokens
from recsys.config import WORK, Config
from recsys.models.encoder import Tokens, load_encoder
from recsys.progress import console
from training import costs
from training.plan import PLANS, UPDATES, FitOn, FitPlan, Segments
from training.update import Start


@dataclass(frozen=True)
class Prepared:
    """A dataset made ready: its log, tokens and everything that both fits share."""

    dataset: Dataset
    log: EventLog
    tokens: Tokens
    tokenizer: Any
    config: Config
    seed: int
    start: Start | None = None
    """The model that an update starts from."""

    @cached_property
    def _cuts(self) -> dict[Segments, EventLog]:
        return {}

    def segments(self, segments: Segments) -> EventLog:
        """Return the log of the events in `segments`, cut once."""
        if segments not in self._cuts:
            self._cuts[segments] = self.log.in_segments(*segments)
        return self._cuts[segments]

    @property
    def sizes(self) -> costs.Sizes:
        """How large the dataset is."""
        return costs.Sizes(len(self.log), self.dataset.items.height)

    @property
    def weights(self) -> dict[str, float]:
        """Event weights by type."""
        return self.dataset.info.event_weights

    def plan(self, fit_on: FitOn) -> FitPlan:
        """Return which segments each fit sees."""
        return (UPDATES if self.start else PLANS)[fit_on]

    @property
    def since(self) -> int | None:
        """The time up to which an update has nothing to learn; None for a fit from nothing."""
        return self.start.learned_until if self.start else None


def prepare_dataset(dataset: Dataset, config: Config, seed: int) -> Prepared:
    """Split the events, build the log and tokenise the catalogue; print a warning if the encoder cannot read it.

    Raises:
        RecsysError: the configuration names attributes or an encoder that there is not.
    """
    refuse_no_numbers(dataset.items, config.ranker.attributes)
    users = dataset.users.schema if dataset.users is not None else None
    refuse_unknown_columns(config.ranker, dataset.events.collect_schema(), users)
    if config.ranker.opinion:
        refuse_bad_opinions(dataset.events, config.ranker.opinion)
    log = read_log(dataset, config)
    _, tokenizer = load_encoder(config.encoder)
    for warning in judge_texts(dataset.items, config.encoder.name, dataset.paths["items"].name)[1]:
        console.print(f"warning: {warning.line()}", soft_wrap=True, markup=False)
    tokens = item_tokens(dataset.items, tokenizer, config.encoder, WORK / "tokens")
    return Prepared(dataset, log, tokens, tokenizer, config, seed)
