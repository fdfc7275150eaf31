"""Clause 8: everything that is not a number."""

from __future__ import annotations

from typing import Any

import pytest

from tracelet.records import Histogram, Media, Record, Table
from tracelet.testing.contract import BackendContract
from tracelet.testing.samples import SAMPLES, TIME, image, metric, param, png


class Kinds(BackendContract):
    """Each kind in its documented form."""

    @pytest.mark.parametrize("kind", sorted(SAMPLES))
    def test_08_kind_arrives_in_its_documented_form(self, kind: str) -> None:
        """Native, converted, as a file, or declared as unsupported; never silently dropped."""
        record, form = SAMPLES[kind], self.form(kind)
        session = self.start()
        if form == "unsupported":
            taken = type(record) in session.backend.accepts
            assert not taken or session.delivery.settle(record) == [record]
            return
        session.send(record)
        seen = self.read_back(session.remote)
        [item] = [item for item in seen.items if item.kind == kind]
        if "original_keys" not in self.cannot:
            assert item.key == getattr(record, "key", "")
        if form != "converted":
            assert item.content == _content(record)
        if item.step is not None:
            assert item.step == 3

    def test_08_a_batch_of_images_stays_a_batch(self) -> None:
        """``add_images`` makes one event with several pictures under one key."""
        self.needs_pictures()
        seen = self.deliver(*(image("samples", 1, shade=n, index=n) for n in range(4)))
        found = sorted(seen.find("image", "samples"), key=lambda item: item.index)
        assert [item.index for item in found] == [0, 1, 2, 3]

    def test_08_media_at_several_steps_are_all_there(self) -> None:
        """The slider of a picture has every step."""
        self.needs_pictures()
        steps = [0, 1, 10, 2**40]
        seen = self.deliver(*(image("samples", step, shade=n) for n, step in enumerate(steps)))
        assert sorted(item.step or 0 for item in seen.find("image", "samples")) == steps

    def test_08_a_figure_is_a_picture_of_its_size(self) -> None:
        """``add_figure`` renders; large pictures are not scaled or cut."""
        self.needs_pictures()
        large = png(90, width=640, height=480)
        seen = self.deliver(Media("image", "figure", large, "image/png", 1, TIME))
        [item] = seen.find("image", "figure")
        if self.form("image") != "converted":
            assert item.content == large

    def test_08_hyperparameters_are_parameters_and_metrics_of_this_run(self) -> None:
        """``add_hparams`` makes no run of its own."""
        seen = self.deliver(
            param("lr", 0.1), param("bsize", 32), param("bias", True), metric("hparam/acc", 0.5)
        )
        assert seen.params["lr"] == "0.1"
        assert seen.params["bsize"] == "32"
        assert seen.params["bias"] == "True"
        assert seen.curve("hparam/acc") == [(0, 0.5)]

    def test_08_an_embedding_arrives_as_its_files(self) -> None:
        """``add_embedding`` writes files beside its event file; they are artifacts."""
        files = {
            "embedding/00003/default/tensors.tsv": b"0.1\t0.2\n0.3\t0.4\n",
            "embedding/00003/default/metadata.tsv": b"cat\ndog\n",
            "embedding/projector_config.pbtxt": b'embeddings {\n  tensor_name: "default"\n}\n',
        }
        seen = self.deliver(*(self.artifact(path, data) for path, data in files.items()))
        assert {path: seen.artifacts.get(path) for path in files} == files


def _content(record: Record) -> Any:
    if isinstance(record, Histogram):
        return (list(record.edges), list(record.counts))
    if isinstance(record, Table):
        return (list(record.columns), [list(row) for row in record.rows])
    return record.data if isinstance(record, Media) else getattr(record, "text", None)
