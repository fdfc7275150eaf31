"""
The files that ``add_embedding`` writes beside the events.

They are handed on under the layout that TensorBoard's projector opens: a folder for each embedding
and one ``projector_config.pbtxt`` (tensorboard/plugins/projector/projector_config.proto) that names
them all. The configuration is written anew, because the library's own may name embeddings of former
runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator, Sequence
from urllib.parse import quote

from tracelet._guard import Call
from tracelet.capture.base import Sink
from tracelet.capture.methods import Steps
from tracelet.capture.notes import here, stream_of
from tracelet.capture.taps import Family

__all__ = ["ROOT", "embedding"]

#: Where they go among the artifacts of the run.
ROOT = "tensorboard/embeddings"

_CONFIG = "projector_config.pbtxt"
#: The longest part of a path that we make.
_SEGMENT = 160


def embedding(family: Family, sink: Sink, names: Sequence[str], *, keep: bool) -> Steps:
    """
    Return the steps of ``add_embedding``.

    Args:
        family: Whose.
        sink: Where the files go.
        names: The names of its arguments.
        keep: False: the library writes into a folder that is gone afterwards.
    """
    # By stream and name, in the order of their first appearance.
    known: dict[str, dict[str, str]] = {}

    def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        call = {**dict(zip(names, args)), **kwargs}
        writer = call["self"]
        notes = here.notes
        stream = notes.stream or stream_of(writer, family.folder)
        folder = tempfile.mkdtemp(prefix="tracelet-")
        before = notes.folder
        try:
            if not keep:
                # A closed writer starts anew first, and under its own name.
                writer._get_file_writer()  # noqa: SLF001 - what the original calls
                notes.folder = folder
            try:
                yield args, kwargs
            finally:
                notes.folder = before
            _hand_on(sink, stream, known.setdefault(stream, {}), call, family, folder, keep=keep)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return steps


def _hand_on(
    sink: Sink,
    stream: str,
    known: dict[str, str],
    call: dict[str, Any],
    family: Family,
    folder: str,
    *,
    keep: bool,
) -> None:
    writer = call["self"]
    tag = call.get("tag", "default")
    number = call.get("global_step")
    step = str(0 if number is None else number).zfill(5)
    logdir = folder if not keep else str(getattr(writer, family.folder))
    written = Path(logdir, step, writer._encode(tag))  # noqa: SLF001 - as the original
    place = f"{_segment(step)}/{_segment(tag)}"
    files = ["tensors.tsv"]
    lines = [
        f"tensor_name: {_text(f'{tag}:{step}')}",
        f"tensor_path: {_text(f'{place}/tensors.tsv')}",
    ]
    if call.get("metadata") is not None:
        files.append("metadata.tsv")
        lines.append(f"metadata_path: {_text(f'{place}/metadata.tsv')}")
    images = call.get("label_img")
    if images is not None:
        files.append("sprite.png")
        height, width = images.shape[2:4]
        lines.append(
            f"sprite {{ image_path: {_text(f'{place}/sprite.png')}"
            f" single_image_dim: {int(width)} single_image_dim: {int(height)} }}"
        )
    for name in files:
        sink.file(stream, str(written / name), f"{ROOT}/{place}/{name}")
    known[place] = "embeddings {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
    config = Path(folder, _CONFIG)
    config.write_text("".join(known.values()), encoding="utf-8")
    sink.file(stream, str(config), f"{ROOT}/{_CONFIG}")


def _segment(text: str) -> str:
    """Return a text as one segment of a path that every store takes; one-to-one."""
    quoted = quote(text, safe="").replace("~", "%7E").replace("%", "~")
    if len(quoted) > _SEGMENT:
        # The configuration names the path, so no backend may have to cut it.
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{quoted[: _SEGMENT - 14]}~~{digest}"
    if not quoted.strip("."):
        return quoted.replace(".", "~2E") or "~"
    return quoted


def _text(text: str) -> str:
    """Return a text as the text format of protocol buffers quotes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\0-\x1f\x7f]", lambda found: f"\\{ord(found[0]):03o}", escaped) + '"'
