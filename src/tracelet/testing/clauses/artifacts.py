"""Clause 16: files, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracelet.backends.base import Batch
from tracelet.errors import RejectedError
from tracelet.testing.contract import BackendContract

ARTIFACT_PATHS = (
    *("model.pth", "training/checkpoints/last.ckpt", "training/notes.txt", "a b/c d.txt"),
    *("plot#1.png", "what?.txt", "100%.txt", "x%41.txt", "(1) [2] {3}.txt", "naïve/模型.bin"),
    *(".hidden", "no_suffix", "deep/" * 12 + "leaf", "n" * 200 + ".txt", "a+b=c&d.txt"),
)


class Artifacts(BackendContract):
    """Files and folders."""

    def test_16_a_file_arrives_byte_for_byte(self) -> None:
        """Empty ones and such with every byte included."""
        files = {
            "empty": b"",
            "bytes.bin": bytes(range(256)) * 17,
            "models/model.pth": os.urandom(300_000),
            "windows.txt": b"one\r\ntwo\r\n\x1a",
        }
        seen = self.deliver(*(self.artifact(path, data) for path, data in files.items()))
        assert {path: seen.artifacts.get(path) for path in files} == files

    def test_16_a_folder_arrives_with_its_tree(self) -> None:
        """Awkward names of files keep their place."""
        files = {path: path.encode() for path in ARTIFACT_PATHS}
        seen = self.deliver(*(self.artifact(path, data) for path, data in files.items()))
        if "artifact_paths" in self.cannot:
            assert set(files.values()) <= set(seen.artifacts.values())
        else:
            assert {path: seen.artifacts.get(path) for path in files} == files

    def test_16_a_file_of_the_same_path_replaces(self) -> None:
        """``last.ckpt`` is written again and again."""
        session = self.start()
        session.send(self.artifact("last.ckpt", b"epoch one, and it was longer"))
        session.send(self.artifact("last.ckpt", b"epoch two"))
        assert self.read_back(session.remote).artifacts["last.ckpt"] == b"epoch two"

    def test_16_the_stores_copy_is_its_own(self) -> None:
        """What happens to the file later does not matter."""
        session = self.start()
        sent = self.artifact("model.pth", b"as it was")
        session.send(sent)
        Path(sent.source).write_bytes(b"changed!!")
        assert self.read_back(session.remote).artifacts["model.pth"] == b"as it was"

    def test_16_a_users_own_file_is_taken_if_it_is_still_the_same(self) -> None:
        """Without a snapshot the file is recognised by its identity."""
        seen = self.deliver(self.artifact("model.pth", b"as it was", own=True))
        assert seen.artifacts["model.pth"] == b"as it was"

    @pytest.mark.parametrize("happened", ["changed", "replaced", "gone"])
    def test_16_a_users_own_file_that_is_another_is_rejected_by_name(self, happened: str) -> None:
        """Wrong bytes under the right name would be worse than none; the rest arrives."""
        session = self.start()
        bad = self.artifact("model.pth", b"as it was", own=True)
        good = self.artifact("config.yaml", b"lr: 0.1\n", own=True)
        _happen(happened, Path(bad.source))
        with pytest.raises(RejectedError) as caught:
            session.backend.write(Batch((bad, good), lane="heavy"))
        assert caught.value.indexes == (0,)
        assert session.delivery.settle(bad, good) == [bad]
        session.backend.barrier()
        artifacts = self.read_back(session.remote).artifacts
        assert artifacts["config.yaml"] == b"lr: 0.1\n"
        assert "model.pth" not in artifacts


def _happen(what: str, file: Path) -> None:
    if what == "changed":
        file.write_bytes(b"something longer than it was")
    elif what == "replaced":
        other = file.with_suffix(".new")
        other.write_bytes(file.read_bytes()[::-1])
        other.replace(file)
    else:
        file.unlink()
