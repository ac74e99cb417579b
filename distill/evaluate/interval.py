"""A confidence interval. Apart from `statistics`, whose libraries take seconds to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Whether the value lies in it, ends included."""
        return self.low <= value <= self.high
