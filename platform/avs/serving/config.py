"""Configuration of ``jobs/serve.py``.

Tokens are no key of it: they would end in shell histories and in printed configurations. They come
from the environment variable AVS_API_TOKENS.
"""

from __future__ import annotations

from dataclasses import dataclass

from avs.errors import ConfigError
from avs.scale import ScaleConfig

__all__ = ["ServeConfig"]


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """One checkpoint behind one address.

    ``max_body_bytes`` is the whole upload with its form. ``upload_timeout_s`` runs while the body
    arrives, ``request_timeout_s`` from then to the answer. ``max_queued_requests`` may wait beside
    those that are worked on. ``start_timeout_s`` is how long the replicas may take to come up.
    """

    checkpoint: str
    host: str
    port: int
    max_body_bytes: int
    max_duration_s: float
    upload_timeout_s: float
    request_timeout_s: float
    max_queued_requests: int
    start_timeout_s: float
    scale: ScaleConfig

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("host= is empty: give an address, as host=127.0.0.1.")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} must lie between 1 and 65535.")
        for key in ("max_body_bytes", "max_queued_requests"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1.")
        for key in ("max_duration_s", "upload_timeout_s", "request_timeout_s", "start_timeout_s"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key}={getattr(self, key)} must be positive.")
