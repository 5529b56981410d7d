"""Errors that a user can act on.

Every class derives from :class:`AvsError`; a job prints its message as one line and ends with
``exit_code``, so a message names the file, the key, the value and the way out.
"""

from __future__ import annotations

__all__ = [
    "AvsError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DecoderError",
    "LeaseError",
    "MediaError",
    "RejectBudgetError",
    "WeightsError",
]


class AvsError(Exception):
    """Base of all errors meant for the user; ``exit_code`` is what a job ends with."""

    exit_code = 1


class ConfigError(AvsError, ValueError):
    """A configuration key or value that cannot be used."""

    exit_code = 2


class DataError(AvsError):
    """A data set or prepared folder that is missing, incomplete or of another version."""


class MediaError(AvsError):
    """A media file that cannot be used: becomes a reject row where a job goes on."""


class DecoderError(AvsError):
    """The decoder process cannot be started: the fault of the machine, not of the file."""


class RejectBudgetError(AvsError):
    """More clips were rejected than the job allows; what could be written is written."""

    exit_code = 3


class CheckpointError(AvsError):
    """A checkpoint folder that is missing, incomplete or of another version."""


class WeightsError(AvsError):
    """Pre-trained weights that cannot be found or do not fit."""


class LeaseError(AvsError):
    """Another run holds the output folder, or this run lost it."""
