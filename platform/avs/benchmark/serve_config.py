"""The ``serve`` section of ``jobs/benchmark.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avs.errors import ConfigError

__all__ = ["ServeStageConfig"]

_QUICK_REQUESTS, _QUICK_CLIENTS, _QUICK_S = 3, 3, 5.0


@dataclass(kw_only=True, slots=True)
class ServeStageConfig:
    """Stage ``serve``: ``jobs/serve.py`` beside an empty graph, a bare loop and a plain server.

    ``models`` are files of configs/model, whose networks get random weights and run with
    ``num_threads``. The same ``num_clips`` synthetic clips of 5 s, at most 16, are sent in turn.
    One client takes turns with all contenders: ``requests`` of each, and no more turns after
    ``round_s``. Then, ``repeats`` times, ``clients`` at once load one contender after the other:
    ``requests`` beside a first one of each client that does not count, and after ``round_s`` each
    client ends with the one that it waits for.
    """

    models: list[str]
    num_threads: int
    num_clips: int
    requests: int
    clients: int
    round_s: float

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("serve.models=[]: one or more of configs/model.")
        for key, least in (("num_threads", 1), ("num_clips", 1), ("requests", 2), ("clients", 2)):
            if getattr(self, key) < least:
                raise ConfigError(f"serve.{key}={getattr(self, key)} must be at least {least}.")
        if self.num_clips > 16:
            raise ConfigError(f"serve.num_clips={self.num_clips} must be at most 16.")
        if not self.round_s > 0:
            raise ConfigError(f"serve.round_s={self.round_s} must be above 0.")

    def quick(self) -> ServeStageConfig:
        """The same with the first model and a handful of requests."""
        return replace(
            self,
            models=self.models[:1],
            num_clips=1,
            requests=_QUICK_REQUESTS,
            clients=_QUICK_CLIENTS,
            round_s=_QUICK_S,
        )
