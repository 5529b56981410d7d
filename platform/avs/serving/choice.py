"""Which served model answers: the one asked for, or by the shares that canaries were given."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from avs.serving.messages import ApiError
from avs.serving.names import client_name

__all__ = ["DEFAULT_MODEL", "Choice"]

DEFAULT_MODEL = "default"


@dataclass(frozen=True, slots=True)
class Choice:
    """Names with their shares (0..1) of the requests that name none."""

    shares: Mapping[str, float]

    @classmethod
    def among(cls, extra: Mapping[str, float]) -> Choice:
        """The default model gets what the others leave."""
        rest = max(0.0, 1.0 - sum(extra.values()))
        return cls({DEFAULT_MODEL: rest, **extra})

    def __call__(self, name: str | None) -> str:
        """A served name.

        Raises:
            ApiError: 422, none is called that.
        """
        if name is None:
            return random.choices(list(self.shares), list(self.shares.values()))[0]
        if name not in self.shares:
            known = ", ".join(self.shares)
            shown = client_name(name)[:60]
            raise ApiError(422, "unknown_model", f"model={shown!r} is not known. Known: {known}.")
        return name
