"""The outcome of each fault in each job, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cell", "add_cell"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fault in one job. ``seconds``: with the fault and, where needed, the second run."""

    job: str
    fault: str
    outcome: str
    seconds: float
    calm_s: float | None = None


def add_cell(cell: Cell, path: Path) -> None:
    """Write its line, in markdown; an older one of the same job and fault goes."""
    head = "| job | fault | what happens | s | undisturbed, s |\n|---|---|---|---|---|\n"
    lines = path.read_text().splitlines()[2:] if path.exists() else []
    own = f"| {cell.job} | {cell.fault} | "
    lines = [line for line in lines if not line.startswith(own)]
    calm = "" if cell.calm_s is None else f"{cell.calm_s:.0f}"
    lines.append(f"{own}{cell.outcome} | {cell.seconds:.0f} | {calm} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n".join(lines) + "\n")
