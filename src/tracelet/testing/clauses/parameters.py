"""Clauses 9 and 10: parameters, long, repeated and changed."""

from __future__ import annotations

import pytest

from tracelet.records import Scalar
from tracelet.testing.contract import BackendContract
from tracelet.testing.samples import metric, param


class Parameters(BackendContract):
    """What a run was started with."""

    @pytest.mark.parametrize(
        "value",
        [0, 1, True, False, 0.1, 1e-30, -7, 2**70, "adam", "", "a\nb", "größer", "NaN", None],
        ids=repr,
    )
    def test_09_a_parameter_is_shown_as_it_prints(self, value: Scalar) -> None:
        """Whatever a store does with types, a person reads the value that was logged."""
        assert self.deliver(param("it", value)).params["it"] == str(value)

    def test_09_a_very_long_parameter_is_whole_somewhere_and_says_where(self) -> None:
        """A configuration file of 100,000 characters is logged as a parameter quite often."""
        value = "".join(f"option_{number} = {number};\n" for number in range(5000)) + "äöü"
        seen = self.deliver(param("config", value), param("lr", 0.1))
        places = [path for path, data in seen.artifacts.items() if data.decode() == value]
        words = [*seen.params.values(), *seen.tags.values()]
        assert seen.params["lr"] == "0.1"
        assert seen.params["config"] == value or any(
            place in word for place in places for word in words
        )

    def test_10_the_same_parameter_again_is_harmless(self) -> None:
        """Also within one batch."""
        session = self.start()
        session.send(param("lr", 0.1), param("lr", 0.1), param("bsize", 32))
        session.send(param("lr", 0.1), metric("loss", 1.0))
        seen = self.read_back(session.remote)
        assert (seen.params["lr"], seen.params["bsize"]) == ("0.1", "32")
        assert seen.curve("loss") == [(0, 1.0)]

    def test_10_a_changed_parameter_follows_the_documented_rule(self) -> None:
        """The other value is never lost, and the rest of the batch arrives."""
        session = self.start()
        session.send(param("lr", "value one"))
        session.send(param("lr", "value two"), param("bsize", 32), metric("loss", 1.0))
        seen = self.read_back(session.remote)
        if self.changed_param == "last":
            assert seen.params["lr"] == "value two"
        else:
            beside = [value for key, value in seen.params.items() if key != "lr"]
            assert seen.params["lr"] == "value one"
            assert any("value two" in value for value in [*beside, *seen.tags.values()])
        assert seen.params["bsize"] == "32"
        assert seen.curve("loss") == [(0, 1.0)]
