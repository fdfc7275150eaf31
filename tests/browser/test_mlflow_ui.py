"""What a person sees of a run in MLflow's own pages, looked at in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import mlflow
import pytest

from services.browser import RunPages, browser, finished_run, window
from services.mlflow_server import Server, mlflow_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

__all__ = ["browser", "mlflow_server"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "every_kind.py"
SOURCE = Path(__file__).parents[2] / "src"

#: What MLflow's own page asks for and its own server does not have.
NOT_OURS = re.compile(r"/ajax-api/2\.0/mlflow/users/current\b")


@dataclass
class EveryKind:
    """The run that has one of everything: its page's address and what MLflow's API says of it."""

    url: str
    run: Any
    client: mlflow.MlflowClient

    def history(self, key: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.run.info.run_id, key)
        return sorted((point.step, point.value) for point in points)


@pytest.fixture(scope="module")
def every_kind(
    mlflow_server: Server, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> EveryKind:
    """The program that logs every kind, as a user would run it, delivered to the server."""
    for package in ("torch", "matplotlib", "moviepy", "PIL", "tensorboardX"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("every-kind")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"(TRACELET|MLFLOW|WANDB|AWS)_|(WORLD_SIZE|(LOCAL_)?RANK)$", name)
    }
    environment.update(
        MLFLOW_TRACKING_URI=mlflow_server.url,
        MPLCONFIGDIR=str(folder / "matplotlib"),
        PYTHONPATH=str(SOURCE),
        USER="ada",
        LOGNAME="ada",
        XDG_STATE_HOME=str(folder / "state"),
    )
    done = subprocess.run(
        [sys.executable, EXAMPLE],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    run = finished_run(mlflow_server.url, "tracelet_every_kind")
    url = f"{mlflow_server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return EveryKind(url, run, mlflow.MlflowClient(mlflow_server.url))


@pytest.fixture(scope="module")
def shared_window(browser: Browser) -> Iterator[BrowserContext]:
    with window(browser) as opened:
        yield opened


@pytest.fixture
def pages(
    mlflow_server: Server, shared_window: BrowserContext, every_kind: EveryKind
) -> Iterator[RunPages]:
    """Pages of the run, and nothing in them that is broken by something of ours."""
    opened = RunPages(shared_window, every_kind.url)
    try:
        yield opened
    finally:
        opened.close()
    assert [said for said in opened.complaints if not NOT_OURS.search(said)] == []


def test_the_first_page_says_what_happened_and_shows_every_last_value(
    pages: RunPages, every_kind: EveryKind
) -> None:
    page = pages.open()
    page.get_by_role("heading", name="every kind").wait_for()
    page.get_by_text("Finished", exact=True).wait_for()

    def beside(label: str) -> str:
        return page.get_by_test_id(f"key-value-{label}").inner_text().partition("\n")[2].strip()

    assert beside("Status") == "Finished"
    # With the branch and the commit behind it, where the source is in a repository.
    assert beside("Source").startswith("every_kind.py")
    assert beside("Created by") == "ada"
    # The metrics and the parameters are in tables: a row's first cell is the name.
    page.get_by_role("row").nth(1).wait_for()
    shown = dict(
        row.inner_text().split("\n")[:2]
        for row in page.get_by_role("row").all()
        if "\n" in row.inner_text()
    )
    parameters = every_kind.run.data.params
    assert {name: shown.get(name) for name in parameters} == dict(parameters)
    metrics = every_kind.run.data.metrics
    assert {"train/loss", "val/loss", "accuracy/train", "accuracy/val"} <= set(metrics)
    assert {name: float(shown.get(name, "nan")) for name in metrics} == pytest.approx(metrics)
    for name, value in every_kind.run.data.tags.items():
        if not name.startswith("mlflow."):
            assert page.get_by_text(name).first.is_visible()
            assert page.get_by_text(value).first.is_visible()


def test_the_list_of_runs_has_it(pages: RunPages, every_kind: EveryKind) -> None:
    page = pages.open_list()
    page.get_by_role("link", name="every kind").first.wait_for()
    page.get_by_text("every_kind.py", exact=True).first.wait_for()


CHARTS = ("train/loss", "val/loss", "accuracy/train", "accuracy/val")


def test_every_curve_is_drawn_whole_in_its_section(pages: RunPages, every_kind: EveryKind) -> None:
    pages.open("model-metrics")
    sections = pages.sections()
    # The curves of precision and recall are images, and stand with what else begins with "val".
    assert {name: sections[name] for name in ("accuracy", "train", "val", "final")} == {
        "accuracy": 2, "train": 1, "val": 3, "final": 1,
    }  # fmt: skip
    for key in CHARTS:
        drawn = pages.card(key).locator(".js-plotly-plot")
        drawn.locator("path.js-line").first.wait_for()
        # The drawing library keeps what it has drawn with the element.
        steps, values = drawn.evaluate("chart => [[...chart.data[0].x], [...chart.data[0].y]]")
        assert list(zip(steps, values)) == every_kind.history(key)
        assert len(steps) == 60


IMAGES = {
    "decision/film": [0, 30],
    "decision/plane": [0, 10, 20, 30, 40, 50, 59],
    "decision/points": [0, 10, 20, 30, 40, 50, 59],
    "units/all": [0, 10, 20, 30, 40, 50, 59],
    "found_objects": [0, 10, 20, 30, 40, 50, 59],
    "val/outer": [0, 10, 20, 30, 40, 50, 59],
    "val/inner": [0, 10, 20, 30, 40, 50, 59],
    "landscape": [0, 10, 20, 30, 40, 50, 59],
    "histograms/sure_of_outer": [0],
    "histograms/weights/first.weight": [0],
    "histograms/gradients/last.weight": [0],
}


def test_every_image_is_loaded_in_the_grid(pages: RunPages) -> None:
    pages.open("model-metrics")
    pages.sections()
    for key, steps in IMAGES.items():
        card = pages.card(key)
        picture = card.locator("img")
        _until_loaded(picture)
        assert card.get_by_role("slider").count() == 1
        # The field beside the slider holds the step that is shown; it begins with the first.
        assert _step(card) == steps[0]
    broken = pages.page.evaluate(
        "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    assert broken == []


def test_the_slider_of_a_card_leafs_through_the_steps(pages: RunPages) -> None:
    pages.open("model-metrics")
    pages.sections()
    card = pages.card("decision/plane")
    picture = card.locator("img")
    _until_loaded(picture)
    seen = {0: picture.get_attribute("src")}
    for step in IMAGES["decision/plane"][1:]:
        card.get_by_role("slider").focus()
        pages.page.keyboard.press("ArrowRight")
        pages.page.wait_for_function(
            "([card, step]) => card.querySelector('input').value === String(step)",
            arg=[card.element_handle(), step],
        )
        _until_loaded(picture)
        seen[step] = picture.get_attribute("src")
        assert f"%2Bstep%2B{step}%2B" in (seen[step] or "")
    assert len(set(seen.values())) == len(IMAGES["decision/plane"])


def _until_loaded(picture: Any) -> None:
    picture.first.wait_for()
    deadline = time.monotonic() + 40
    while not picture.first.evaluate("i => i.complete && i.naturalWidth > 0"):
        assert time.monotonic() < deadline, picture.first.get_attribute("src")
        time.sleep(0.05)


def _step(card: Any) -> int:
    return int(card.locator("input").first.input_value())


#: Counts the pixels of a drawing that are not as its corner is.
INK = """canvas => {
  const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const pixels = new Uint32Array(all.buffer);
  return pixels.reduce((ink, pixel) => ink + (pixel !== pixels[0]), 0);
}"""


def test_the_page_of_histograms_draws_in_the_frame_that_mlflow_gives_it(pages: RunPages) -> None:
    page = pages.open("artifacts/tensorboard/histograms.html")
    frame = pages.html()
    # It may run its script, and nothing else: no way to the page around it or to the server.
    assert page.locator("iframe").get_attribute("sandbox") == "allow-scripts"
    frame.locator("#key option").first.wait_for(state="attached")
    keys = frame.locator("#key option").all_inner_texts()
    assert "weights/second.weight" in keys
    assert "sure_of_outer" in keys
    assert len(keys) == 7
    for key in keys:
        frame.locator("#key").select_option(label=key)
        for drawing in ("#ridges", "#bars"):
            assert frame.locator(drawing).evaluate(INK) > 500, (key, drawing)


def test_the_slider_of_the_histograms_changes_the_drawing(
    pages: RunPages, every_kind: EveryKind, tmp_path: Path
) -> None:
    """The file itself, as somebody opens it who has downloaded it."""
    path = every_kind.client.download_artifacts(
        every_kind.run.info.run_id, "tensorboard/histograms.html", str(tmp_path)
    )
    page = pages.page
    page.goto(Path(path).as_uri())
    page.locator("#key").select_option(label="weights/second.weight")
    slider, label, bars = page.locator("#step"), page.locator("#label"), page.locator("#bars")
    assert label.inner_text() == "step 59"
    drawings = {bars.evaluate("canvas => canvas.toDataURL()")}
    slider.fill("0")
    assert label.inner_text() == "step 0"
    drawings.add(bars.evaluate("canvas => canvas.toDataURL()"))
    page.get_by_label("Step after").click()
    assert label.inner_text() == "step 1"
    drawings.add(bars.evaluate("canvas => canvas.toDataURL()"))
    assert len(drawings) == 3
    facts = page.locator("#facts").inner_text()
    assert "values 4,096" in facts
    page.locator("#ridges").click(position={"x": 200, "y": 305})
    assert label.inner_text() == "step 59"


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("tensorboard/meshes/landscape", ("landscape", "576 vertices", "step 0")),
        ("tensorboard/embeddings/00060/hidden_units", ("200 points", "inner", "outer")),
        ("tensorboard/graphs/graph", ("Linear[first]", "Tanh[first_squash]", "aten::linear")),
    ],
    ids=("mesh", "embedding", "graph"),
)
def test_a_page_of_ours_runs_in_the_frame_that_mlflow_gives_it(
    pages: RunPages, every_kind: EveryKind, folder: str, words: tuple[str, ...]
) -> None:
    files = every_kind.client.list_artifacts(every_kind.run.info.run_id, folder)
    html = next(file.path for file in files if file.path.endswith(".html"))
    pages.open(f"artifacts/{html}")
    frame = pages.html()
    for word in words:
        frame.get_by_text(word).first.wait_for(state="attached")
    for drawing in frame.locator("canvas").all():
        assert drawing.evaluate(INK) > 500
    assert frame.locator("canvas").count() == (0 if "graphs" in folder else 1)


def test_numbers_are_shown_as_they_are(pages: RunPages, every_kind: EveryKind) -> None:
    (tensor,) = (
        file.path
        for file in every_kind.client.list_artifacts(
            every_kind.run.info.run_id, "tensorboard/tensors/confusion"
        )
        if file.path.endswith(".json")
    )
    page = pages.open(f"artifacts/{tensor}")
    page.get_by_text('"shape"').wait_for()
    page = pages.open("artifacts/tensorboard/custom_scalars.json")
    page.get_by_text('"accuracy/train"').first.wait_for()


def test_a_text_is_rendered_as_markdown(pages: RunPages) -> None:
    page = pages.open("artifacts/tensorboard/text/notes.md")
    page.get_by_role("heading", name="notes", exact=True).wait_for()
    heads = page.get_by_role("heading", name=re.compile(r"^Step \d+ · .* UTC$")).all_inner_texts()
    assert [int(head.split()[1]) for head in heads] == [0, 10, 20, 30, 40, 50, 59]
    table = page.get_by_role("table").first
    assert table.get_by_role("columnheader").all_inner_texts() == ["spiral", "points", "found"]
    assert table.get_by_role("row").count() == 3
    assert page.locator("strong", has_text="of 200").count() == 7
    assert page.locator("input[type=checkbox]").count() == 14
    assert page.locator("pre", has_text="course.outer").count() >= 7


def test_a_sound_has_a_player(pages: RunPages, every_kind: EveryKind) -> None:
    (sound,) = every_kind.client.list_artifacts(
        every_kind.run.info.run_id, "tensorboard/audio/loss_to_listen_to"
    )
    page = pages.open(f"artifacts/{sound.path}")
    player = page.locator("audio")  # in the player's shadow tree, which is open
    player.wait_for(state="attached")
    deadline = time.monotonic() + 40
    while not player.evaluate("sound => sound.readyState >= 1"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert player.evaluate("sound => sound.duration") == pytest.approx(3, abs=0.1)


def test_the_labels_of_an_embedding_are_a_table(pages: RunPages, every_kind: EveryKind) -> None:
    folder = "tensorboard/embeddings/00060/hidden_units"
    page = pages.open(f"artifacts/{folder}/metadata.tsv")
    page.get_by_role("columnheader", name="spiral").wait_for()
    heads = page.get_by_role("columnheader").all_inner_texts()
    assert [head for head in heads if head] == ["spiral", "x", "y"]
    assert page.get_by_role("cell", name="outer", exact=True).count() >= 10
    page = pages.open(f"artifacts/{folder}/sprite.png")
    _until_loaded(page.get_by_alt_text(f"{folder}/sprite.png"))


def test_a_film_moves_in_the_artifact_tab(pages: RunPages, every_kind: EveryKind) -> None:
    films = every_kind.client.list_artifacts(
        every_kind.run.info.run_id, "tensorboard/video/decision/film"
    )
    assert len(films) == 2
    film = films[-1]
    page = pages.open(f"artifacts/{film.path}")
    picture = page.get_by_alt_text(film.path)
    _until_loaded(picture)
    assert picture.evaluate("i => i.naturalWidth") == 120
