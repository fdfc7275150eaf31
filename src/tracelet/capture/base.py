"""
What a patch of somebody else's class is, and where it puts what it sees.

``Sink`` is the only thing of ours that capture knows. The real one is the spool's writer.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Protocol, Union

Number = Union[int, float]


class Sink(Protocol):
    """
    Takes what the taps see. Every method returns in microseconds and may raise anything.

    A signal handler or a finalizer may call a method while another one is running on the same
    thread.
    """

    def scalar(
        self,
        stream: str,
        tag: str,
        value: float,
        step: Optional[Number],
        time: Optional[float],
    ) -> None:
        """
        Record one point.

        Args:
            stream: The log directory of the writer, as the writer has it.
            tag: The tag as the user wrote it; of a series of ``add_scalars``, ``series_tag``.
            value: The exact double.
            step: The step: an ``int`` within 64 bits, a fraction, or None when none was given.
            time: Seconds since the epoch when the user gave them, else None for now.
        """

    def event(self, stream: str, data: bytes, hint: Optional[Mapping[str, Any]]) -> None:
        """
        Record a serialized TensorBoard ``Event``.

        Args:
            stream: The log directory of the writer.
            data: ``event.SerializeToString()``.
            hint: What the event no longer knows (JSON values): ``tag``, the raw tag; ``no_step``,
                True when the user gave none; ``step``, a fraction that the event cut;
                ``hparams``, the exact dictionary; ``value``, an exact double.
        """

    def file(self, stream: str, local_path: str, path: str) -> None:
        """
        Record a file or folder that the framework wrote beside its events, as an artifact.

        Args:
            stream: The log directory of the writer.
            local_path: Where the bytes are now. They may be gone once this has returned, so they
                are taken at once, whatever is done with the user's own artifacts.
            path: The whole path that the artifact gets; of a folder, what its content is put under.
        """


class Integration(Protocol):
    """A patch of one library."""

    #: Short name, as in ``disable=["tensorboardx"]``.
    name: str
    #: Patched when, and only when, this module is imported.
    module: str

    def install(self, sink: Sink, *, keep: bool = True) -> None:
        """
        Put the taps on; twice is once.

        Args:
            sink: Where records go.
            keep: False: the library's own event files are not written while installed.
        """

    def uninstall(self) -> None:
        """Take the taps off: the very same objects are back."""
