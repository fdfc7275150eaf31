"""What a user hands to a call, read as a plain value."""

from __future__ import annotations

import decimal
import fractions
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet.run.values import as_json, as_name, as_number, as_path, as_step, as_table


@given(st.floats() | st.integers(-(2**60), 2**60) | st.booleans())
def test_a_number_keeps_its_exact_double(value: Any) -> None:
    assert np.float64(as_number(value, "k")).tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.float64(0.1),
        np.int8(3),
        np.bool_(True),
        np.array(2.5),
        np.array([[2.5]]),
    ],
)
def test_what_holds_one_number_is_one(value: Any) -> None:
    assert as_number(value, "k") == float(np.asarray(value).reshape(()))


def test_other_kinds_of_numbers() -> None:
    assert as_number(decimal.Decimal("0.1"), "k") == 0.1
    assert as_number(fractions.Fraction(1, 4), "k") == 0.25


def test_a_tensor_is_a_number() -> None:
    torch = pytest.importorskip("torch")
    assert as_number(torch.tensor(0.1, dtype=torch.float64, requires_grad=True), "k") == 0.1
    assert as_number(torch.tensor([[3]]), "k") == 3.0
    with pytest.raises(TypeError, match=r"of shape \(2,\)"):
        as_number(torch.zeros(2), "k")


@pytest.mark.parametrize("value", ["1", b"1", None, 1j, [1], {}, object(), np.zeros(2), 10**400])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="'loss'"):
        as_number(value, "loss")


@pytest.mark.parametrize(
    ("value", "step"),
    [
        (None, None),
        (0, 0),
        (-1, -1),
        (2**40, 2**40),
        (2**63 - 1, 2**63 - 1),
        (2**63, float(2**63)),
        (1.5, 1.5),
        (3.0, 3),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (True, 1),
    ],
)
def test_a_step(value: Any, step: Any) -> None:
    assert as_step(value) == step
    assert type(as_step(value)) is type(step)


@pytest.mark.parametrize("value", ["1", math.nan, math.inf, [1], np.zeros(2), object()])
def test_what_is_no_step_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="step"):
        as_step(value)


@pytest.mark.parametrize("value", [None, 5, b"a", "", ["a"]])
def test_what_is_no_name_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        as_name(value)


def test_a_path() -> None:
    assert as_path(Path("a") / "b", "x") == str(Path("a") / "b")
    for value in (None, 5, b"a"):
        with pytest.raises(TypeError):
            as_path(value, "x")


def test_a_cell_of_a_table_is_json() -> None:
    assert as_json({"a": (np.int64(1), Path("b")), 2: None}) == {"a": [1, "b"], "2": None}


class Frame:
    """As much of a data frame as is looked at."""

    columns = ("a", "b")

    def itertuples(self, index: bool, name: Any) -> Any:
        return iter([(1, 2), (3, 4)])


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (Frame(), None),
        ({"a": [1, 3], "b": [2, 4]}, None),
        ({"b": [2, 4], "a": np.array([1, 3])}, ["a", "b"]),
        ([{"a": 1, "b": 2}, {"b": 4, "a": 3}], None),
        ([[1, 2], (3, 4)], ["a", "b"]),
        (np.array([[1, 2], [3, 4]]), ["a", "b"]),
    ],
)
def test_a_table(data: Any, columns: Any) -> None:
    assert as_table(data, columns) == (["a", "b"], [[1, 2], [3, 4]])


def test_a_table_with_holes() -> None:
    assert as_table([{"a": 1}, {"b": 2}], None) == (["a", "b"], [[1, None], [None, 2]])


@pytest.mark.parametrize("data", ["text", 5, [[1, 2]], None])
def test_what_is_no_table_is_refused(data: Any) -> None:
    with pytest.raises(TypeError):
        as_table(data, None)


@pytest.mark.parametrize("data", [{"a": [1], "b": [1, 2]}, [[1, 2], [3]]])
def test_a_ragged_table_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="table"):
        as_table(data, ["a", "b"])
