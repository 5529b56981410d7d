"""Small videos made for the tests, and the folder of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media_clips import numbered_frames

from avs.media.encoding import write_mp4


@pytest.fixture(scope="session")
def clips(real_data: Path) -> Path:
    """Folder of real videos."""
    return real_data / "clips"


@pytest.fixture(scope="session")
def numbered_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames at 8 a second, 5 s of a 440 Hz tone."""
    path = tmp_path_factory.mktemp("video") / "numbered.mp4"
    t = np.arange(5 * 16000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    write_mp4(path, numbered_frames(40), fps=8, samples=tone)
    return path
