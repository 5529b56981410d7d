"""Which code a result was made with: the package's version, and the commit where it is known."""

from __future__ import annotations

import subprocess
from pathlib import Path

from avs import __version__

__all__ = ["code_version"]

_PACKAGE = Path(__file__).parent
_TIMEOUT_S = 10.0


def code_version() -> str:
    """``0.1.0``, with the commit if the package lies in a git checkout that has git.

    ``-dirty`` behind the commit: files that git knows had been changed.
    """
    # A virtual environment may lie in somebody's repository, which says nothing about this package.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return __version__
    commit = _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return __version__ if commit is None else f"{__version__} (git {commit})"


def _git(*arguments: str) -> str | None:
    """What git prints, None where it is not there or fails."""
    command = ["git", "-C", str(_PACKAGE), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
