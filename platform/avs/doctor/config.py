"""Configuration of ``jobs/doctor.py``."""

from __future__ import annotations

from dataclasses import dataclass

from avs.errors import ConfigError

__all__ = ["DoctorConfig"]


@dataclass(kw_only=True, slots=True)
class DoctorConfig:
    """What is looked at beside this machine; what is null is passed over.

    ``storage`` is a folder or s3:// prefix that jobs will write below; a few small files are
    written there and removed. ``checkpoint`` is read and run once. ``address`` is Ray's: auto,
    HOST:PORT, or http(s)://HOST:8265 as for ``ray job submit``; null takes the variable
    RAY_ADDRESS, and without it no cluster is looked at. ``timeout_s`` is what one check may take,
    ``json`` prints one JSON document instead of lines.
    """

    storage: str | None = None
    checkpoint: str | None = None
    address: str | None = None
    timeout_s: float = 60.0
    json: bool = False

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s={self.timeout_s} must be more than 0.")
