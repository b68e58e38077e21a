"""What a check is given and what it yields. Standard library only: the process that writes the report has no torch."""

import statistics
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Place:
    """Where a check runs, and how large."""

    device: Literal["cpu", "cuda"]
    quick: bool
    """Tiny encoders and batches: the same code, and no figures worth keeping."""
    seed: int = 0
    cifar: str | None = None
    """Class folders, or an .npz of packed JPEGs; None: random pixels."""

    @property
    def has_goals(self) -> bool:
        return self.device == "cuda" and not self.quick

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 5

    @property
    def backend(self) -> str:
        """Of torch.compile; with --quick nothing is generated, since a C++ compiler takes minutes."""
        return "aot_eager" if self.quick else "inductor"


@dataclass(frozen=True)
class Goal:
    kind: Literal["at least", "at most"]
    value: float

    def met_by(self, value: float) -> bool:
        return value >= self.value if self.kind == "at least" else value <= self.value


@dataclass(frozen=True)
class Row:
    name: str
    values: tuple[float, ...]
    """One a round; none where it could not be measured."""
    unit: str
    goal: Goal | None = None
    note: str = ""
    limit: str = ""
    """What bounds it, in words: a share of what the machine can do."""

    def verdict(self, place: Place) -> str:
        if self.goal is None or not place.has_goals:
            return "not asked"
        if not self.values:
            return "missed"
        return "met" if self.goal.met_by(statistics.median(self.values)) else "missed"

    def as_json(self, place: Place) -> dict[str, Any]:
        found = self.values
        return {
            "name": self.name,
            "value": statistics.median(found) if found else None,
            "low": min(found, default=None),
            "high": max(found, default=None),
            "unit": self.unit,
            "limit": self.limit,
            "goal": f"{self.goal.kind} {self.goal.value:g}" if self.goal else None,
            "verdict": self.verdict(place),
            "note": self.note,
        }


class Skipped(Exception):
    """A check that has nothing to say here; the message says why."""
