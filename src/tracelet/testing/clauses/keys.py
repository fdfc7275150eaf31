"""Clauses 6 and 7: no two names ever become one."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Mapping

from tracelet.records import Metric
from tracelet.testing.contract import BackendContract
from tracelet.testing.samples import TIME, image, metric, param, png, tag

#: Keys that trackers stumble over. Several differ in one forbidden character only.
AWKWARD_KEYS = (
    *("loss", "Loss", "loss ", " loss", "loss/", "/loss", "loss/train", "loss//train"),
    *("loss (train)", "loss [train]", "loss{train}", "loss train", "loss_train", "loss,train"),
    *("loss@train", "loss%train", "loss=train", "loss#train", "loss'train", "loss&train"),
    *("loss:train", "loss.train", "loss-train", "loss+train", 'loss"train"', "loss\\train"),
    *("loss*", "loss?", "loss|", "<loss>", "~loss", "$loss", ".", "..", "../loss", "a/./b"),
    *("потеря", "损失", "é", "e\u0301", "🔥", "tab\there", "line\nbreak", "con"),
    *("x" * 250, "x" * 299 + "1", "x" * 299 + "2", "ж" * 300),
)


class Keys(BackendContract):
    """Streams and awkward keys."""

    def test_06_streams_with_the_same_tag_stay_apart(self) -> None:
        """The pairs that would meet, named as the shipper names them."""
        naming = import_module("tracelet.naming")
        names = naming.Names()
        pairs = [
            ("runs/exp", "loss"),
            ("runs/exp", "val/loss"),
            ("runs/exp/val", "loss"),
            ("runs/exp/train", "loss"),
            ("runs/other", "loss"),
            ("runs/exp", "a/b"),
            ("runs/exp/a_b", "a"),
        ]
        for stream in dict(pairs):
            names.stream(stream)
        keys = [names.key("metric", stream, name) for stream, name in pairs]
        sent = [
            Metric(key, float(number), 1, TIME, stream)
            for number, (key, (stream, _)) in enumerate(zip(keys, pairs))
        ]
        seen = self.deliver(*sent)
        assert {key: seen.curve(key) for key in keys} == {
            key: [(1, float(number))] for number, key in enumerate(keys)
        }

    def test_07_awkward_keys_of_metrics_stay_distinct(self) -> None:
        """One curve each, and the original key is shown."""
        seen = self.deliver(
            *(metric(key, float(number), 1) for number, key in enumerate(AWKWARD_KEYS))
        )
        found = {key: seen.curve(key) for key in seen.metrics}
        expected = {key: [(1, float(number))] for number, key in enumerate(AWKWARD_KEYS)}
        if "original_keys" in self.cannot:
            assert sorted(found.values()) == sorted(expected.values())
        else:
            assert found == expected

    def test_07_awkward_keys_of_parameters_stay_distinct(self) -> None:
        """One parameter each."""
        seen = self.deliver(*(param(key, f"value {n}") for n, key in enumerate(AWKWARD_KEYS)))
        self._all_there(seen.params, {key: f"value {n}" for n, key in enumerate(AWKWARD_KEYS)})

    def test_07_awkward_keys_of_tags_stay_distinct(self) -> None:
        """One label each."""
        seen = self.deliver(*(tag(key, f"value {n}") for n, key in enumerate(AWKWARD_KEYS)))
        self._all_there(seen.tags, {key: f"value {n}" for n, key in enumerate(AWKWARD_KEYS)})

    def test_07_awkward_keys_of_pictures_stay_distinct(self) -> None:
        """One picture each, the right one."""
        self.needs_pictures()
        seen = self.deliver(*(image(key, 1, shade) for shade, key in enumerate(AWKWARD_KEYS)))
        found = [item for item in seen.items if item.kind == "image"]
        assert len(found) == len(AWKWARD_KEYS)
        if self.form("image") != "converted":
            assert {item.content for item in found} == {png(n) for n in range(len(AWKWARD_KEYS))}
        if "original_keys" not in self.cannot:
            assert {item.key for item in found} == set(AWKWARD_KEYS)

    def _all_there(self, found: Mapping[str, str], sent: Mapping[str, str]) -> None:
        if "original_keys" in self.cannot:
            assert Counter(sent.values()) <= Counter(found.values())
        else:
            assert {key: found.get(key) for key in sent} == sent
