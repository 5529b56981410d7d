"""Where a model comes from: what its authors settled and what is ours.

It is written in the model's module and named in its line of ``MODELS``, so a model cannot be added
without it; the model card shows it, and no figure of a reconstruction passes for a published one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Origin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Sentences for the model card.

    published: what the paper or its authors' code settles. reconstructed: what is ours.
    where: the authors' code, which says where their checkpoints are.
    """

    published: str
    reconstructed: str
    where: str
