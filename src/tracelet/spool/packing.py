"""
Segments that take less room: compressed, or with records given up.

Only whoever holds the run's ``ship.lock`` calls these, and only for segments that nobody writes to
any more. Whatever is killed on the way, there is the old file or the new one: where both are there
the plain one counts (``docs/spool-format.md``), and it is the old one.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import BinaryIO, Callable, ContextManager, Iterator

from tracelet.spool import frame
from tracelet.spool.reader import frames, front
from tracelet.spool.rundir import RunDir, sync_folder
from tracelet.spool.thinned import Thinned, encode_thinned

__all__ = ["pack", "packed_path", "rewrite"]

#: Frames are handed to the compressor in pieces of about this size.
_PIECE_BYTES = 64 * 1024


def packed_path(path: Path) -> Path:
    """Return the name of a segment's compressed form."""
    return path.with_name(f"{path.name}.gz")


def pack(path: Path, level: int = 6) -> None:
    """
    Compress a segment; readers read it as it was, from wherever they are.

    Args:
        path: The plain segment.
        level: How hard to try, 1 to 9, as in zlib.

    Raises:
        OSError: It could not be done; then the segment is as it was.
    """
    with _packing(path, level) as (file, put):
        with open(path, "rb") as plain:
            shutil.copyfileobj(plain, file)
        put()


def rewrite(
    run: RunDir,
    writer: str,
    number: int,
    gone: Thinned,
    undisturbed: Callable[[], ContextManager[bool]],
) -> bool:
    """
    Replace a segment by a compressed one without some of its records.

    Args:
        run: The run.
        writer: The writer.
        number: The segment's number.
        gone: All that it lacks from now on.
        undisturbed: Entered around the moment in which the new one takes the old one's place;
            gives False if that must not be after all.

    Returns:
        True when it was replaced.

    Raises:
        OSError: It could not be done; then the segment is as it was.
    """
    path = run.segment_path(writer, number)
    begin = front(run, writer, number)
    if begin is None:
        return False
    note = frame.encode(frame.THINNED, 0, begin.first, encode_thinned(gone), begin.salt)
    with _packing(path, 1) as (file, put):
        piece = bytearray(begin.data + 2 * note)
        following, sealed = begin.first, False
        for each, data in frames(run, writer, number, begin):
            sealed = each.type == frame.FOOTER
            if frame.is_data(each.type) and each.seq >= following:
                following = each.seq + 1
                at = each.seq - gone.first
                if at < len(gone.marks) and gone.marks[at]:
                    continue
            elif each.type == frame.THINNED:
                continue
            piece += data
            if len(piece) > _PIECE_BYTES:
                file.write(piece)
                piece.clear()
        if not sealed:
            # Something has to stand behind the last record, should that be gone.
            content = json.dumps({"first": begin.first, "next": following}).encode()
            piece += 2 * frame.encode(frame.FOOTER, 0, following, content, begin.salt)
        file.write(piece)
        with undisturbed() as may:
            if may:
                put()
            return may


@contextlib.contextmanager
def _packing(path: Path, level: int) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """Give a file to write a compressed segment to, and what puts it in the segment's place."""
    packed = packed_path(path)
    # Under another name until it is whole: we may be killed here.
    hidden = path.with_name(f".{packed.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(hidden, flags, 0o600), "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=level, mtime=0) as file:

                def put() -> None:
                    file.close()
                    raw.flush()
                    # As old as what is in it.
                    written = (path if path.exists() else packed).stat()
                    os.utime(hidden, ns=(written.st_atime_ns, written.st_mtime_ns))
                    os.fsync(raw.fileno())
                    raw.close()  # Windows renames no file that is open
                    hidden.replace(packed)
                    sync_folder(path.parent)
                    # From here on it is the compressed one that counts.
                    path.unlink(missing_ok=True)

                yield file, put  # type: ignore[misc]
    finally:
        hidden.unlink(missing_ok=True)
