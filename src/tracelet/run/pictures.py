"""
Anything that can be seen, as the bytes of an image file.

Arrays are written as PNG with nothing but zlib, so that ``log_image`` needs no imaging library.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Picture", "of_figure", "of_image"]

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
#: Number of channels → PNG's colour type (RFC 2083, section 4.1.1).
_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}


class Picture(NamedTuple):
    """An encoded image."""

    data: bytes
    mime: str


def of_image(image: Any) -> Picture:
    """
    Return an image as a file's bytes.

    Args:
        image: Encoded bytes (PNG, JPEG, GIF, WebP) or the path of such a file; a Pillow image; or
            an array or tensor, ``(height, width)``, ``(height, width, channels)`` or ``(channels,
            height, width)`` with 1 to 4 channels. Whole numbers are 0 to 255, fractions 0 to 1.
            Where both orders would fit, a tensor is read with its channels first, an array last.

    Raises:
        TypeError: It is nothing of that.
        OSError: The file cannot be read.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _encoded(bytes(image))
    if isinstance(image, (str, os.PathLike)):
        return _encoded(Path(image).read_bytes())
    if callable(getattr(image, "save", None)) and hasattr(image, "mode"):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return Picture(buffer.getvalue(), "image/png")
    if hasattr(image, "shape") or isinstance(image, (list, tuple)):
        return Picture(_png(image), "image/png")
    raise TypeError(
        f"An image is bytes, a path, a Pillow image, an array or a tensor, "
        f"not {type(image).__name__}."
    )


def of_figure(figure: Any) -> Picture:
    """
    Return a matplotlib figure as PNG.

    Raises:
        TypeError: It is no figure.
    """
    if not callable(getattr(figure, "savefig", None)):
        raise TypeError(f"A figure is one of matplotlib's, not {type(figure).__name__}.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Picture(buffer.getvalue(), "image/png")


def _encoded(data: bytes) -> Picture:
    for signature, mime in _SIGNATURES:
        if data.startswith(signature):
            return Picture(data, mime)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Picture(data, "image/webp")
    raise ValueError("These bytes are no PNG, JPEG, GIF or WebP.")


def _png(image: Any) -> bytes:
    """Write an array as PNG, 8 bits a channel, no filter."""
    import numpy as np

    channels_first = hasattr(image, "detach")
    if channels_first:
        image = image.detach().cpu()
        image = image.float() if str(image.dtype) == "torch.bfloat16" else image
    array = np.asarray(image)
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim != 3 or array.dtype.kind not in "biuf":
        raise TypeError(f"An image is an array of two or three dimensions, not of shape {shape}.")
    else:
        first, last = shape[0] in _COLOUR, shape[2] in _COLOUR
        if first and (channels_first or not last):
            array = np.moveaxis(array, 0, 2)
        elif not last:
            raise TypeError(f"An image has 1 to 4 channels; an array of shape {shape} has none.")
    height, width, channels = array.shape
    if not height or not width:
        raise TypeError(f"An image is not empty, as one of shape {shape} is.")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        array = np.nan_to_num(np.clip(array.astype(np.float64), 0.0, 1.0)) * 255
        array = (array + 0.5).astype(np.uint8)
    else:
        array = np.clip(array, 0, 255).astype(np.uint8)
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # filter byte 0, then pixels
    rows[:, 1:] = array.reshape(height, width * channels)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR[channels], 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", head),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
