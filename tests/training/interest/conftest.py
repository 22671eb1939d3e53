"""What tests of the interest model share."""

import pytest

from tests.worlds import tiny_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny encoder."""
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))
