"""
Embeddings where TensorBoard's projector looks: a file beside the events.

Their files arrive as artifacts, each set with a configuration whose paths are relative to itself
(``projector_config.proto`` of TensorBoard). The one beside the events names all of them.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG = "projector_config.pbtxt"

_PATH = re.compile(r'((?:tensor|metadata|image|bookmarks)_path:\s*")')


def is_config(path: str) -> bool:
    """Tell whether an artifact says where embeddings are."""
    return path.rpartition("/")[2] == CONFIG


def gather(folder: Path) -> str:
    """
    Return one configuration out of all that are among the artifacts of a run's folder.

    Raises:
        OSError: One of them cannot be read.
    """
    parts = []
    for path in sorted((folder / "artifacts").rglob(CONFIG)):
        where = path.parent.relative_to(folder).as_posix()
        quoted = where.replace("\\", "\\\\").replace('"', '\\"')
        text = path.read_text(encoding="utf-8", errors="replace")
        parts.append(_PATH.sub(lambda found, at=quoted: f"{found[1]}{at}/", text))  # type: ignore[misc]
    return "".join(parts)
