"""Images from whatever a user has, read back by another library."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracelet.run import histograms, pictures

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(7)


def opened(image: Any) -> Any:
    picture = pictures.of_image(image)
    assert picture.mime == "image/png"
    return np.asarray(Image.open(io.BytesIO(picture.data)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_array_comes_back_pixel_by_pixel(channels: int) -> None:
    pixels = RNG.integers(0, 256, (5, 9, channels), dtype=np.uint8)
    expected = pixels[:, :, 0] if channels == 1 else pixels
    assert np.array_equal(opened(pixels), expected)
    assert np.array_equal(opened(np.moveaxis(pixels, 2, 0)), expected)


def test_a_matrix_is_grey() -> None:
    pixels = RNG.integers(0, 256, (5, 9), dtype=np.uint8)
    assert np.array_equal(opened(pixels), pixels)
    assert np.array_equal(opened(pixels.tolist()), pixels)


@pytest.mark.parametrize(
    ("given", "pixel"),
    [(0.0, 0), (1.0, 255), (0.5, 128), (-3.0, 0), (7.0, 255), (np.nan, 0)],
)
def test_fractions_run_from_0_to_1(given: float, pixel: int) -> None:
    assert opened(np.full((2, 2), given, dtype=np.float32))[0, 0] == pixel


def test_whole_numbers_are_cut_at_255_and_booleans_are_black_and_white() -> None:
    assert opened(np.array([[300, -5]]))[0].tolist() == [255, 0]
    assert opened(np.array([[True, False]]))[0].tolist() == [255, 0]


@pytest.mark.parametrize("shape", [(3, 4, 3), (1, 5, 4)])
def test_a_tensor_has_its_channels_first(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.rand(shape, requires_grad=True)
    height, width = shape[1:]
    assert opened(tensor).shape[:2] == (height, width)
    assert opened(tensor.to(torch.bfloat16)).shape[:2] == (height, width)


def test_a_file_and_its_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    for kind, mime in (("PNG", "png"), ("JPEG", "jpeg"), ("GIF", "gif"), ("WEBP", "webp")):
        path = tmp_path / f"image.{mime}"
        Image.new("RGB", (4, 4), "red").save(path, kind)
        for given in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
            assert pictures.of_image(given) == (path.read_bytes(), f"image/{mime}")


def test_a_pillow_image() -> None:
    assert opened(Image.new("RGB", (4, 3), "red")).shape == (3, 4, 3)


@pytest.mark.parametrize(
    "image",
    [None, 5, object(), np.zeros(3), np.zeros((5, 5, 5)), np.zeros((0, 3)), np.array(["a"])],
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(TypeError):
        pictures.of_image(image)


def test_bytes_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ValueError, match="PNG"):
        pictures.of_image(b"not an image")


def test_a_figure() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = pyplot.figure(figsize=(2, 1), dpi=50)
    picture = pictures.of_figure(figure)
    assert Image.open(io.BytesIO(picture.data)).size == (100, 50)
    assert pyplot.fignum_exists(figure.number)
    pyplot.close(figure)
    with pytest.raises(TypeError, match="matplotlib"):
        pictures.of_figure("figure")


# -- histograms -------------------------------------------------------------------------------


def test_a_histogram_counts_every_finite_value() -> None:
    values = [*RNG.normal(size=1000), np.nan, np.inf]
    found = histograms.of_values("w", values, 16, 3, 1.0)
    assert found is not None
    assert len(found.edges) == 17
    assert sum(found.counts) == 1000
    finite = np.array(values[:1000])
    assert (found.min, found.max) == (finite.min(), finite.max())
    assert found.sum == pytest.approx(finite.sum())
    assert found.sum_squares == pytest.approx((finite**2).sum())


def test_a_histogram_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    found = histograms.of_values("w", model.parameters(), 4, None, 1.0)
    assert found is not None
    assert sum(found.counts) == 8


def test_a_histogram_of_nothing_is_none() -> None:
    assert histograms.of_values("w", [], 4, None, 1.0) is None
    assert histograms.of_values("w", [np.nan], 4, None, 1.0) is None


@pytest.mark.parametrize("values", ["text", ["a"], {"a": 1}, object()])
def test_a_histogram_of_no_numbers_is_refused(values: Any) -> None:
    with pytest.raises(TypeError):
        histograms.of_values("w", values, 4, None, 1.0)


def test_counted_buckets() -> None:
    found = histograms.counted("w", [0, 1, 2, 3], [0, 2, 0], 1, 1.0)
    assert (found.min, found.max, found.sum, found.sum_squares) == (1.0, 2.0, 3.0, 4.5)


@pytest.mark.parametrize(
    ("edges", "counts"),
    [([0, 1], [1, 1]), ([0], []), ([1, 0], [1]), ([0, np.inf], [1]), ([0, "a"], [1])],
)
def test_buckets_that_do_not_fit_are_refused(edges: Any, counts: Any) -> None:
    with pytest.raises(TypeError):
        histograms.counted("w", edges, counts, 1, 1.0)
