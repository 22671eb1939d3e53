"""Every feature that a reason can name is explained."""

import re

from features.ranking import NAMED
from recsys.config import SourcesConfig
from serving.loading import feature_sources
from tests.docs.pages import ROOT


def test_every_feature_is_explained() -> None:
    """And none that there is not."""
    text = (ROOT / "docs/analysts.md").read_text().partition("## What every feature means")[2]
    explained = [
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    of_sources = [
        f"{kind}_{name}" for name in feature_sources(SourcesConfig().model_dump()) for kind in ("relative", "rank")
    ]
    assert sorted(explained) == sorted([*of_sources, *NAMED])
