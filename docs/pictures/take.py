"""
Take the pictures of the docs anew: `make pictures`, or `python docs/pictures/take.py NAME …`.

A real `mlflow server` gets the run of `examples/every_kind.py` and that of the demo, and a real
browser opens their pages. Look at what comes out before it is committed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional, Sequence, Union

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from PIL import Image

from services.browser import RunPages, browsing, finished_run, window
from services.mlflow_server import serving

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator

#: No picture is larger, in bytes.
MOST = 60_000

Parts = Union["Locator", Sequence["Locator"]]
Shot = Callable[[RunPages], Parts]

EVERY_KIND: dict[str, Shot] = {}
DEMO: dict[str, Shot] = {}


def shot(name: str, where: dict[str, Shot] = EVERY_KIND) -> Callable[[Shot], Shot]:
    """Make the function below take the picture of this name: it returns what is to be on it."""

    def keep(function: Shot) -> Shot:
        where[name] = function
        return function

    return keep


# -- the tab of metrics -------------------------------------------------------------------------


def cards(pages: RunPages, *keys: str) -> list[Locator]:
    pages.open("model-metrics")
    pages.sections()
    found = [pages.card(key) for key in keys]
    for card in found:
        card.locator("img, path.js-line").first.wait_for()
    return found


def at_step(pages: RunPages, card: Locator, times: int) -> None:
    """Move the slider of an image's card by so many places."""
    for _ in range(times):
        card.get_by_role("slider").focus()
        pages.page.keyboard.press("ArrowRight")
        pages.page.wait_for_timeout(150)
    pages.page.mouse.move(0, 0)


#: For each picture the keys of its cards, and how far the first one's slider is moved.
CARDS: dict[str, tuple[Sequence[str], int]] = {
    "scalars": (["train/loss"], 0),
    "add_scalars": (["accuracy/train", "accuracy/val"], 0),
    "image": (["decision/plane"], 4),
    "images": (["units/all"], 6),
    "boxes": (["found_objects"], 6),
    "figure": (["decision/points"], 6),
    "video": (["decision/film"], 0),
    "pr-curve": (["val/outer"], 2),
    "mesh-card": (["landscape"], 6),
    "heat-maps": (["histograms/weights/first.weight", "histograms/weights/second.weight"], 0),
}


def of_cards(keys: Sequence[str], places: int) -> Shot:
    def taken(pages: RunPages) -> Parts:
        found = cards(pages, *keys)
        if places:
            at_step(pages, found[0], places)
        return found

    return taken


EVERY_KIND.update((name, of_cards(*what)) for name, what in CARDS.items())


# -- the tab of artifacts -----------------------------------------------------------------------


def artifact(pages: RunPages, path: str, last: str = "") -> Locator:
    """Open a file, or of a folder the last file with this suffix, and return the tab."""
    pages.open(f"artifacts/{path}")
    page = pages.page
    if last:
        page.get_by_text(re.compile(rf"^step_.*\.{last}$")).last.click()
    page.wait_for_timeout(2500)
    return page.locator(".mlflow-artifact-view")


@shot("histograms")
def _(pages: RunPages) -> Parts:
    tab = artifact(pages, "tensorboard/histograms.html")
    pages.html().locator("#key").select_option(label="weights/second.weight")
    return tab


#: For each picture a file, or a folder and the suffix of the file in it.
FILES: dict[str, tuple[str, str]] = {
    "text": ("text/notes.md", ""),
    "audio": ("audio/loss_to_listen_to", "wav"),
    "labels": ("embeddings/00060/hidden_units/metadata.tsv", ""),
    "embedding": ("embeddings/00060/hidden_units/scatter.html", ""),
    "mesh": ("meshes/landscape", "html"),
    "graph": ("graphs/graph", "html"),
    "tensor": ("tensors/confusion", "json"),
    "custom-scalars": ("custom_scalars.json", ""),
}


def of_artifact(path: str, last: str) -> Shot:
    return lambda pages: artifact(pages, f"tensorboard/{path}", last)


EVERY_KIND.update((name, of_artifact(*what)) for name, what in FILES.items())


# -- the first tab, and the list ----------------------------------------------------------------


def overview(pages: RunPages) -> Locator:
    page = pages.open()
    page.get_by_text("Finished", exact=True).wait_for()
    page.wait_for_timeout(500)
    return page.locator("body")


@shot("hyperparameters")
def _(pages: RunPages) -> Parts:
    overview(pages)
    return pages.page.get_by_role("table").filter(has_text="learning_rate")


@shot("run")
def _(pages: RunPages) -> Parts:
    return overview(pages)


@shot("demo-run", DEMO)
def _(pages: RunPages) -> Parts:
    return overview(pages)


@shot("demo-metrics", DEMO)
def _(pages: RunPages) -> Parts:
    pages.open("model-metrics")
    pages.sections()
    pages.page.wait_for_timeout(2000)
    return pages.page.locator("body")


@shot("demo-runs", DEMO)
def _(pages: RunPages) -> Parts:
    pages.open_list().get_by_text("mlp", exact=True).first.wait_for()
    pages.page.wait_for_timeout(1500)
    return pages.page.locator("body")


# -- taking them --------------------------------------------------------------------------------

#: Windows that are not of the common size: what is to be seen decides.
SIZES = {
    "audio": (1100, 800),
    "labels": (1100, 640),
    "embedding": (1100, 760),
    "histograms": (1100, 910),
    "text": (1100, 640),
    "mesh": (1100, 760),
    "graph": (1100, 760),
    "tensor": (1100, 560),
    "custom-scalars": (1100, 640),
    "run": (1100, 760),
    "demo-run": (1100, 760),
    "demo-metrics": (1100, 1330),
    "demo-runs": (1100, 420),
}
SIZE = (1100, 1500)
#: Around what is cut out, in pixels.
MARGIN = 6


def take(opened: BrowserContext, url: str, name: str, what: Shot) -> None:
    width, height = SIZES.get(name, SIZE)
    pages = RunPages(opened, url)
    pages.page.set_viewport_size({"width": width, "height": height})
    found = what(pages)
    # The button of MLflow's assistant floats above whatever is below.
    pages.page.add_style_tag(content="[data-assistant-ui] { display: none !important }")
    parts = found if isinstance(found, (list, tuple)) else [found]
    boxes = [box for box in (part.bounding_box() for part in parts) if box is not None]
    left = max(0, min(box["x"] for box in boxes) - MARGIN)
    top = max(0, min(box["y"] for box in boxes) - MARGIN)
    right = min(width, max(box["x"] + box["width"] for box in boxes) + MARGIN)
    bottom = min(height, max(box["y"] + box["height"] for box in boxes) + MARGIN)
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    keep(name, pages.page.screenshot(clip=clip, animations="disabled", caret="hide"))
    pages.close()


def keep(name: str, taken: bytes) -> None:
    """Write the picture with as many colours as its size allows."""
    with Image.open(io.BytesIO(taken)) as picture:
        plain = picture.convert("RGB")
    for colours in (256, 128, 64, 32):
        small = io.BytesIO()
        plain.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        if small.tell() <= MOST:
            break
    (HERE / f"{name}.png").write_bytes(small.getvalue())
    print(f"{name}.png  {plain.width} × {plain.height}, {small.tell():,} bytes", flush=True)


def log(program: str, server: str, folder: Path) -> None:
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": server,
        "PYTHONPATH": str(REPOSITORY / "src"),
        # Whoever takes the pictures is not on them.
        "USER": "ada",
        "LOGNAME": "ada",
    }
    command = [sys.executable, str(REPOSITORY / "examples" / program)]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def run_url(server: str, project: str) -> str:
    run = finished_run(server, project)
    return f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def main(wanted: Optional[Sequence[str]] = None) -> None:
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "server") as server:
        folder = Path(name)
        for program, project, shots in (
            ("every_kind.py", "tracelet_every_kind", EVERY_KIND),
            ("mlp.py", "tracelet_demo", DEMO),
        ):
            chosen = {key: what for key, what in shots.items() if not wanted or key in wanted}
            if not chosen:
                continue
            log(program, server.url, folder)
            url = run_url(server.url, project)
            with browsing(folder / "home") as browser, window(browser) as opened:
                for key, what in chosen.items():
                    take(opened, url, key, what)


if __name__ == "__main__":
    main(sys.argv[1:])
