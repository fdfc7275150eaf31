"""
Rows of numbers, past two slow parts of ``run.log``.

Most of its time it changes threads, twice for each row; most of the rest it looks for arrays and
media in numbers. Here a batch changes threads once. The messages are the vendor's own, and the
same; the ways to them have no public names, so they are used only where they look as they do in
wandb 0.26 to 0.31, and ``run.log`` is everywhere else.
"""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any, Callable, Iterator, Sequence

from tracelet.backends.wandb.rows import Row

__all__ = ["swift"]


#: What the client's way to its core has to have.
_PARTS = ("_assign", "_asyncer", "_client", "_publish", "_publish_partial_history")


@contextlib.contextmanager
def swift(run: Any) -> Iterator[Callable[[int, Row], bool]]:
    """
    Collect what the client tells its core, and hand it over at once when the block ends.

    Gives a function that logs a row of numbers under its number, and returns False for a row
    that is for ``run.log``.
    """
    interface: Any = getattr(run, "_interface", None)
    if not all(hasattr(interface, name) for name in _PARTS):
        yield _never
        return
    collected: list[Any] = []

    def collect(record: Any, *, nowait: bool = False) -> None:  # noqa: ARG001 - the client's
        collected.append(record)

    interface._publish = collect  # noqa: SLF001
    try:
        yield _Rows(interface).log
    finally:
        del interface._publish  # noqa: SLF001
    if collected:
        _hand_over(interface, collected)


def _hand_over(interface: Any, records: Sequence[Any]) -> None:
    from wandb.proto import wandb_server_pb2

    async def hand_over() -> None:
        for record in records:
            interface._assign(record)  # noqa: SLF001
            request = wandb_server_pb2.ServerRequest()
            request.record_publish.CopyFrom(record)
            await interface._client.publish(request)  # noqa: SLF001

    interface._asyncer.run(hand_over)  # noqa: SLF001


def _never(number: int, row: Row) -> bool:  # noqa: ARG001
    return False


class _Rows:
    """What ``run.log(row, step=number, commit=True)`` sends, made directly."""

    def __init__(self, interface: Any) -> None:
        from wandb.proto import wandb_internal_pb2

        self._message = wandb_internal_pb2.PartialHistoryRequest
        self._publish = interface._publish_partial_history  # noqa: SLF001

    def log(self, number: int, row: Row) -> bool:
        """Log a row; False when it is not one of numbers alone."""
        message = self._message()
        add = message.item.add
        for key, value in row.items():
            if type(value) is float:
                add(key=key, value_json=repr(value) if math.isfinite(value) else json.dumps(value))
            elif type(value) is int:
                add(key=key, value_json=str(value))
            else:
                return False
        message.step.num = number
        message.action.flush = True
        self._publish(message)
        return True
