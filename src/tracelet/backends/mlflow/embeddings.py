"""
The files of ``add_embedding``: a page to look at them, beside what TensorBoard's projector opens.

The files of one embedding arrive one after the other and the projector's configuration last
(``capture/embeddings.py``), so that is when ``scatter.html`` is drawn. What has arrived is kept in
a small form until then, also over a restart.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any, Iterator, Optional

from tracelet.backends.mlflow.files import make_folder, replace_file
from tracelet.backends.mlflow.render.scatter import labels_of, points_of, scatter_page

__all__ = ["Embeddings"]

_FILE = re.compile(
    r"(?P<root>tensorboard/embeddings(?:~\w+)?(?:-\w+)?)/"
    r"(?:(?P<place>[^/]+/[^/]+)/(?P<part>tensors\.tsv|metadata\.tsv|sprite\.png)"
    r"|projector_config\.pbtxt)"
)
#: One embedding in the text that ``capture/embeddings.py`` writes.
_ENTRY = re.compile(r"embeddings \{\n(.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r'(tensor_name|tensor_path): "((?:[^"\\]|\\.)*)"')
_SIDE = re.compile(r"single_image_dim: (\d+)")

#: A larger picture is not put into the page.
_MOST_SPRITE_BYTES = 2_000_000


class Embeddings:
    """
    The embeddings of one run that are not drawn yet.

    Args:
        folder: Where they are kept over a restart.
        label: Is in the names of folders, for a run that others wrote to before.
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        make_folder(folder)
        self._folder = folder
        self._label = label

    def place(self, path: str) -> str:
        """Return where an artifact goes: what belongs to an embedding, into our own folder."""
        found = _FILE.fullmatch(path)
        if found is None or not self._label:
            return path
        root = found["root"]
        return f"{root}{self._label}{path[len(root) :]}"

    def pages(self, path: str, source: Path) -> Iterator[tuple[str, bytes]]:
        """
        Take a file that was stored, and yield path and content of the pages that are due now.

        Args:
            path: The artifact's path. Whatever is no part of an embedding is passed over.
            source: Its bytes.
        """
        found = _FILE.fullmatch(path)
        if found is None or not source.is_file():
            return
        if found["part"]:
            self._keep(found["root"], found["place"], found["part"], source)
            return
        entries = _entries(source.read_text(encoding="utf-8", errors="replace"))
        for kept in sorted(self._folder.glob("*.json")):
            state = json.loads(kept.read_bytes())
            if state["root"] == found["root"] and state.get("tensors.tsv"):
                name, sides = entries.get(state["place"], (state["place"], None))
                page = scatter_page(
                    name,
                    state["tensors.tsv"],
                    state.get("metadata.tsv"),
                    state.get("sprite.png"),
                    sides,
                )
                yield f"{state['root']}/{state['place']}/scatter.html", page
                kept.unlink()

    def _keep(self, root: str, place: str, part: str, source: Path) -> None:
        digest = hashlib.sha256(f"{root}/{place}".encode()).hexdigest()[:24]
        file = self._folder / f"{digest}.json"
        state: dict[str, Any] = {"root": root, "place": place}
        # The numbers come first: with them begins a new embedding, maybe under a name known before.
        if part != "tensors.tsv" and file.exists():
            state = json.loads(file.read_bytes())
        state[part] = _read(part, source, state)
        replace_file(file, json.dumps(state).encode())


def _read(part: str, source: Path, state: dict[str, Any]) -> Any:
    if part == "tensors.tsv":
        return points_of(source)
    if part == "metadata.tsv":
        points = state.get("tensors.tsv")
        return labels_of(source, points) if points else None
    if source.stat().st_size > _MOST_SPRITE_BYTES:
        return None
    return b64encode(source.read_bytes()).decode()


def _entries(config: str) -> dict[str, tuple[str, Optional[tuple[int, int]]]]:
    """Return name and size of the pictures of each embedding, by its place."""
    found = {}
    for entry in _ENTRY.findall(config):
        fields = {name: _plain(text) for name, text in _FIELD.findall(entry)}
        sides = [int(side) for side in _SIDE.findall(entry)]
        place = fields.get("tensor_path", "").rpartition("/")[0]
        found[place] = (
            fields.get("tensor_name", place),
            (sides[0], sides[1]) if len(sides) == 2 else None,
        )
    return found


def _plain(text: str) -> str:
    return re.sub(
        r"\\([0-7]{3}|.)",
        lambda one: chr(int(one[1], 8)) if len(one[1]) == 3 else one[1],
        text,
    )
