"""
Texts: one Markdown file for each key, a section for each step.

``tensorboard/text/<key>.md`` is rendered by MLflow's artifact tab; it is written anew while it
grows, and goes on in ``<key> (2).md`` when it is large.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import make_folder
from tracelet.backends.mlflow.journal import Journal
from tracelet.backends.mlflow.values import text_of
from tracelet.records import Text

__all__ = ["Texts"]

_CHUNK_BYTES = 300_000
#: The end of the year 9999; no calendar here goes further.
_LAST_SECOND = 253402300799.0


class Texts:
    """
    The texts of one run.

    Args:
        folder: Where they are kept over a restart.
        file_key: Makes a legal path from any text.
        label: Is in the names of the files, for a run that others wrote to before.
    """

    def __init__(self, folder: Path, file_key: Callable[[str], str], label: str = "") -> None:
        make_folder(folder)
        self._folder = folder
        self._file_key = file_key
        self._label = label.lstrip("-")
        self._journals: dict[str, Journal] = {}
        for path in sorted(folder.iterdir()):
            journal = Journal(path, _CHUNK_BYTES)
            for line in journal.lines(journal.number):
                self._journals[json.loads(line)["key"]] = journal
                break

    @property
    def waiting(self) -> bool:
        """True when something is not in the tracker yet."""
        return any(journal.dirty for journal in self._journals.values())

    def add(self, text: Text) -> None:
        """Take a text, on disk when this returns; the same one again is taken once."""
        key = text_of(text.key)
        journal = self._journals.get(key)
        if journal is None:
            name = hashlib.sha256(key.encode()).hexdigest()[:16]
            journal = self._journals[key] = Journal(self._folder / name, _CHUNK_BYTES)
        found = {"key": key, "step": text.step, "time": text.time, "text": text_of(text.text)}
        journal.append(json.dumps(found).encode())

    def upload(self, artifacts: Artifacts) -> None:
        """Bring what has changed into the tracker."""
        for key, journal in self._journals.items():
            if not journal.dirty:
                continue
            journal.sync()
            # No legal key has a parenthesis, so that no other key can have this name.
            words = [self._label] if self._label else []
            words += [str(journal.number)] if journal.number > 1 else []
            number = f" ({' '.join(words)})" if words else ""
            content = "".join(_sections(key, journal.lines(journal.number)))
            path = f"tensorboard/text/{self._file_key(key)}{number}.md"
            artifacts.put(path, content.encode())
            journal.uploaded()


def _sections(key: str, lines: Iterator[bytes]) -> Iterator[str]:
    yield f"# {key}\n"
    for line in lines:
        found = json.loads(line)
        when = datetime.fromtimestamp(min(max(found["time"], 0.0), _LAST_SECOND), timezone.utc)
        step = "" if found["step"] is None else f"Step {found['step']} · "
        yield f"\n---\n\n### {step}{when:%Y-%m-%d %H:%M:%S} UTC\n\n{found['text']}\n"
