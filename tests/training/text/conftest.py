"""What the tests of text heads share: a small encoder, and labelled texts that it can learn."""

from pathlib import Path

import pytest

from tests.worlds import tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny encoder."""
    return tiny_encoder(Path(tmp_path_factory.mktemp("encoder")))
