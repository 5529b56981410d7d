"""Real media for tests marked ``real_data``; without it they are skipped, and say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOT_SET = "AVS_REAL_DATA is not set"


def pytest_configure() -> None:
    """A wrong folder must not look like a skipped test."""
    folder = os.environ.get("AVS_REAL_DATA")
    if folder and not Path(folder).is_dir():
        raise pytest.UsageError(f"AVS_REAL_DATA={folder} is not a folder")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the fixture, and skip all of the mark where there is no real media."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
        if item.get_closest_marker("real_data") and not os.environ.get("AVS_REAL_DATA"):
            item.add_marker(pytest.mark.skip(reason=NOT_SET))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real media that AVS_REAL_DATA names."""
    folder = os.environ.get("AVS_REAL_DATA")
    if not folder:
        pytest.skip(NOT_SET)
    return Path(folder).resolve()
