"""
Which steps of a key are shown as files of their own.

A run page lists every picture of a run whenever it is opened, and every file costs a server some
milliseconds. So the first steps of a key are all shown, then every second, every fourth, and so on.
The choice depends on the order of the records alone: whoever goes on with a run, or sends a part of
it again, chooses the same, and nothing that is there has to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from tracelet.records import Step

__all__ = ["FILES_AT_A_PACE", "Sieve"]

#: After so many files of a key half as many of its steps are shown as before, and no step shows
#: more members of one batch than that.
FILES_AT_A_PACE = 50


@dataclass(frozen=True)
class Sieve:
    """
    One key, after some of its records; ``n`` steps make about ``50 * log2(n / 50 + 1)`` files.

    Args:
        steps: How many steps there were.
        stride: Every so many steps are shown now.
        files: How many files there are since the stride has been this one.
        step: The last step, and when it was: what follows with a place in a batch belongs to it.
        time: In seconds since the epoch.
        shown: Whether the last record is shown.
        members: How many records of the last step are shown.
    """

    steps: int = 0
    stride: int = 1
    files: int = 0
    step: Step = None
    time: float = 0.0
    shown: bool = False
    members: int = 0

    def after(self, step: Step, time: float, place: int) -> Sieve:
        """
        Return the sieve behind one more record; its ``shown`` is about this record.

        Args:
            step: The record's step.
            time: When it was logged.
            place: Its place in a batch; a batch is shown or not as one.
        """
        if place > 0 and self.steps and (self.step, self.time) == (step, time):
            shown = 0 < self.members < FILES_AT_A_PACE
            members, files = self.members + shown, self.files + shown
            return Sieve(self.steps, self.stride, files, step, time, shown, members)
        slower = self.files >= FILES_AT_A_PACE
        stride = self.stride * 2 if slower else self.stride
        files = 0 if slower else self.files
        shown = self.steps % stride == 0
        return Sieve(self.steps + 1, stride, files + shown, step, time, shown, int(shown))

    def as_json(self) -> Sequence[Any]:
        """Return what ``Sieve(*…)`` takes."""
        return [
            self.steps, self.stride, self.files, self.step, self.time, self.shown, self.members
        ]  # fmt: skip
