"""What the tests of one plane share."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> "Lake":
    """An empty store of the test's own, and a worker's way to write into it."""
    from tests.lake import Lake  # models cannot be imported while pytest reads this file

    return Lake(tmp_path)
