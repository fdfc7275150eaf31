"""
Files that the run page shows in its image grid.

The page reads everything from the file's name:
``images/<key>+step+<step>+timestamp+<ms>+<uuid>.png`` and beside it the same name with
``+compressed``, which is what the grid draws (without it the card stays broken). ``/`` in the key
is written ``~``. MLflow's own ``log_image`` writes this form since 3.11; the page understands it
since 3.1. One file with another name hides them all (mlflow#24789).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import uuid
import warnings
from dataclasses import dataclass
from typing import Optional

from tracelet.backends.mlflow.artifacts import Artifacts

__all__ = ["FOLDER", "Image", "put_image", "thumbnail"]

FOLDER = "images"

#: The longer side of what the grid draws, in pixels.
_SIDE = 256


@dataclass(frozen=True)
class Image:
    """
    Which image. Two that are equal in all of this are one, and replace each other.

    Args:
        title: The legal key under which the grid shows it.
        source: The key as it was logged, and the place in a batch.
        step: As an integer.
        time: In seconds since the epoch.
    """

    title: str
    source: str
    step: int
    time: float

    @property
    def path(self) -> str:
        """The artifact's path, without its suffix."""
        milliseconds = max(0, int(self.time * 1000))
        what = f"{self.source}\n{self.step}\n{milliseconds}"
        identity = uuid.UUID(bytes=hashlib.sha256(what.encode()).digest()[:16], version=5)
        flat = self.title.replace("/", "~")
        return f"{FOLDER}/{flat}+step+{self.step}+timestamp+{milliseconds}+{identity}"


def put_image(artifacts: Artifacts, image: Image, data: bytes, *, shrink: bool = True) -> None:
    """
    Store an image so that the grid shows it.

    Args:
        artifacts: Where to.
        image: Which one.
        data: PNG, JPEG, or a GIF that moves in the grid as well.
        shrink: Make a small twin, where Pillow is there to make it.
    """
    small = thumbnail(data) if shrink else None
    # The twin first: a card without one is broken, a twin without its image is not shown.
    if small is None:
        artifacts.put(f"{image.path}+compressed.png", data)
    else:
        artifacts.put(f"{image.path}+compressed.webp", small)
    # The page goes by the suffix, a browser by the content: GIF and JPEG are fine.
    artifacts.put(f"{image.path}.png", data)


def thumbnail(data: bytes) -> Optional[bytes]:
    """
    Return the image as WebP, its longer side 256 pixels, or None where that cannot be done.

    A moving image is left alone, and so is everything that Pillow does not understand.
    """
    try:
        from PIL import Image as Pillow
    except ImportError:
        return None
    wrong = (
        OSError,
        ValueError,
        SyntaxError,
        struct.error,
        EOFError,
        Pillow.DecompressionBombError,
    )
    with contextlib.suppress(*wrong), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Pillow.open(io.BytesIO(data)) as picture:
            if getattr(picture, "is_animated", False):
                return None
            plain = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGBA")
            scale = _SIDE / max(plain.size)
            size = tuple(max(1, round(side * scale)) for side in plain.size)
            # Hard edges for what is enlarged: its pixels are the content.
            how = Pillow.Resampling.NEAREST if scale > 1 else Pillow.Resampling.LANCZOS
            out = io.BytesIO()
            plain.resize(size, how).save(out, "WEBP", quality=90)
            return out.getvalue()
    return None
