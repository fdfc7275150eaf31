"""
What was recorded and what became of it, in numbers that add up.

``recorded = spooled + lost`` (by reason), and for every backend
``spooled = delivered + pending + rejected + unsupported``. A run says two lines to stderr, where
to look when it starts and this sum when it ends, and one more for each thing that went wrong in
between; none of them with ``silent``.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence

from tracelet._redaction import redacted_line
from tracelet.errors import shortened
from tracelet.records import RunStatus

__all__ = ["BackendCounts", "Ledger", "Report"]

#: Of what a backend says, so much fits into the closing line.
_SAID = 200

log = logging.getLogger("tracelet")
log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class BackendCounts:
    """
    What one backend has of a run, in records.

    ``damaged`` is what could not be read back from the disk; normally 0. ``thinned`` is what was
    given up, by kind, because the spool had grown to its bound. ``warnings`` counts what a
    person should know although it cost no record, a file that changed before it was sent.
    ``left``: something is left to do, be it only to tell the backend of the run, or of its end.
    ``state`` is the shipper's: ``closed`` when nothing is left, ``waiting`` or ``config`` with the
    reason in ``detail``. ``look`` tells a person where to see the run.
    """

    delivered: int = 0
    pending: int = 0
    rejected: int = 0
    unsupported: int = 0
    damaged: int = 0
    thinned: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)
    state: str = ""
    detail: str = ""
    look: str = ""
    left: bool = False

    @property
    def total(self) -> int:
        """Every record the backend was or will be handed."""
        answered = self.delivered + self.rejected + self.unsupported
        return answered + self.pending + self.damaged + sum(self.thinned.values())

    @property
    def waiting(self) -> bool:
        """True when something is left to do: records, or the run itself."""
        return self.left or bool(self.pending)

    def _kinds(self) -> list[str]:
        return [f"{kind} {count:,}" for kind, count in sorted(self.thinned.items())]

    def __str__(self) -> str:
        if not self.total and self.waiting:
            return f"not there yet{self._why}"
        parts = [f"{self.delivered:,} delivered"] if self.delivered or not self.total else []
        for count, word in (
            (self.pending, "pending"),
            (self.rejected, "rejected"),
            (self.unsupported, "unsupported"),
            (self.damaged, "damaged on disk"),
            (sum(self.thinned.values()), f"thinned ({', '.join(self._kinds())})"),
            *((number, word) for word, number in sorted(self.warnings.items())),
        ):
            if count:
                parts.append(f"{count:,} {word}")
        text = ", ".join(parts)
        return f"{text}{self._why}" if self.pending else text

    @property
    def _why(self) -> str:
        # Trackers say anything, up to a whole page; the log and ``tracelet status`` have more.
        return f" ({shortened(self.detail, _SAID)})" if self.detail else ""


@dataclass(frozen=True)
class Report:
    """
    The account of a run at the moment ``stop`` returned.

    ``lost`` counts by reason what was recorded and is not in the spool. ``notes`` are what a person
    should know of the spool, in a few words each. ``str()`` is the closing line.
    """

    run_id: str
    status: RunStatus
    recorded: int
    lost: Mapping[str, int] = field(default_factory=dict)
    backends: Mapping[str, BackendCounts] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def spooled(self) -> int:
        """What reached the disk."""
        return self.recorded - sum(self.lost.values())

    @property
    def pending(self) -> int:
        """What some backend has not answered for yet; the largest number over all backends."""
        return max((counts.pending for counts in self.backends.values()), default=0)

    @property
    def complete(self) -> bool:
        """True when nothing was lost, and every backend has all of it."""
        return not self.lost and all(
            counts.delivered == self.spooled and not counts.waiting
            for counts in self.backends.values()
        )

    def check(self) -> list[str]:
        """Return a sentence for every backend whose numbers do not add up; empty when all do."""
        return [
            f"{name}: {counts.delivered} delivered + {counts.pending} pending + "
            f"{counts.rejected} rejected + {counts.unsupported} unsupported "
            f"is not {self.spooled} spooled"
            for name, counts in self.backends.items()
            if counts.total != self.spooled
        ]

    def __str__(self) -> str:
        parts = [f"{self.recorded:,} recorded{_lost(self.lost)}"]
        parts += [f"{name} {counts}" for name, counts in self.backends.items()]
        parts += self.notes
        line = f"tracelet: {' · '.join(parts)}"
        if any(counts.waiting for counts in self.backends.values()):
            return f"{line} → tracelet sync"
        looks = {name: counts.look for name, counts in self.backends.items() if counts.look}
        if len(self.backends) == 1:
            return "".join([line, *(f" → {look}" for look in looks.values())])
        # With several it has to be said whose place is whose.
        told = ", ".join(f"{name}: {look}" for name, look in looks.items())
        return f"{line} → {told}" if told else line


class Ledger:
    """Counts what a run lost before it reached the spool, and speaks for the run."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self._lock = threading.Lock()
        self._lost: dict[str, int] = {}
        self._said: set[str] = set()

    def lose(self, reason: str, count: int = 1) -> None:
        """Count records that will not be delivered, by reason."""
        with self._lock:
            self._lost[reason] = self._lost.get(reason, 0) + count

    @property
    def lost(self) -> Mapping[str, int]:
        """Return what was counted so far."""
        with self._lock:
            return dict(self._lost)

    def say(self, line: str) -> None:
        """Write one line to stderr, unless the run is silent."""
        line = redacted_line(line)
        log.info("%s", line)
        if self.silent:
            return
        if not line.startswith("tracelet: "):
            line = f"tracelet: {line}"
        try:
            try:
                print(line, file=sys.stderr, flush=True)
            except UnicodeEncodeError:
                plain = line.replace("·", "|").replace("→", "->")
                print(ascii(plain)[1:-1], file=sys.stderr, flush=True)
        except (OSError, ValueError, AttributeError):
            # stderr is closed or there is none: a line less, and nobody's training ends for it.
            log.debug("stderr is gone")

    def warn(self, line: str, *, once: Optional[str] = None) -> None:
        """
        Say that something went wrong and training goes on.

        Args:
            line: What happened and what to do, in one sentence.
            once: When given, only the first of all warnings with this text here is said.
        """
        if once is not None:
            with self._lock:
                if once in self._said:
                    return
                self._said.add(once)
        if self.silent:
            log.warning("%s", redacted_line(line))
        else:
            self.say(line)


def _lost(lost: Mapping[str, int]) -> str:
    if not lost:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(lost.items()))
    return f", {sum(lost.values()):,} lost ({reasons})"
