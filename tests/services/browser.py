"""
A real browser without a window, to see what a person would see.

Chromium (or Chrome) is the machine's own; Playwright drives it through a pipe and downloads none.
It can reach this machine and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Optional

import pytest

if TYPE_CHECKING:
    from mlflow.entities import Run
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Frame,
        Locator,
        Page,
    )

__all__ = ["MISSING", "RunPages", "browser", "browsing", "chromium", "finished_run", "window"]

#: What to do where there is none.
MISSING = (
    "No browser was found: install Chromium (Debian, Ubuntu: apt-get install chromium; macOS: "
    "brew install --cask chromium), or name one in the variable CHROMIUM."
)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ELSEWHERE = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

_ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    # No name leads anywhere, and no address but this machine's is asked.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=127.0.0.1",
)

#: The page of MLflow 3.17 opens a panel for its assistant at the first visit.
_NO_ASSISTANT = """try {
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
} catch (nothing) {}"""


def chromium() -> Optional[str]:
    """Return the path of a browser that is installed here."""
    named = os.environ.get("CHROMIUM")
    found = (shutil.which(name) for name in ((named,) if named else _NAMES))
    files = (path for path in _ELSEWHERE if Path(path).exists())
    return next((path for path in (*found, *files) if path), None)


@contextlib.contextmanager
def browsing(home: Path) -> Iterator[Browser]:
    """
    Start a browser.

    Args:
        home: An empty folder; nothing of the developer's own browser is seen or touched.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise FileNotFoundError(MISSING)
    environment = {**os.environ, "HOME": str(home), "TZ": "UTC"}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        environment[name] = str(home / name.lower())
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=list(_ARGUMENTS), env=environment
        )
        try:
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """
    One browser for a module.

    Not for the session: as long as Playwright runs, this thread counts as one with an event loop,
    and nobody else can start theirs.
    """
    pytest.importorskip("playwright")
    if chromium() is None:
        pytest.skip(MISSING)
    with browsing(tmp_path_factory.mktemp("browser")) as started:
        yield started


def finished_run(server: str, experiment: str, wait_s: float = 120.0) -> Run:
    """
    Return the only run of an experiment, when all of it is there.

    A program that has ended is not delivered yet where the machine is busy; the end of the run is
    written last.
    """
    import mlflow

    client = mlflow.MlflowClient(server)
    deadline = time.monotonic() + wait_s
    while True:
        found = client.get_experiment_by_name(experiment)
        (run,) = client.search_runs([found.experiment_id])
        if run.info.status == "FINISHED":
            return run
        if time.monotonic() > deadline:
            raise TimeoutError(f"the run is {run.info.status}")
        time.sleep(0.2)


@contextlib.contextmanager
def window(
    browser: Browser, size: tuple[int, int] = (1280, 2600), scale: float = 1.0
) -> Iterator[BrowserContext]:
    """
    Open a window that remembers what it has loaded: the scripts of MLflow's pages are large.

    Args:
        browser: The browser.
        size: Of the pages in it, in pixels. The page of charts makes only the cards that are in
            sight, so that a high one needs no scrolling.
        scale: How many pixels of a picture for one of these.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        device_scale_factor=scale,
        locale="en-GB",
        timezone_id="UTC",
        color_scheme="light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(40_000)
    context.add_init_script(_NO_ASSISTANT)
    try:
        yield context
    finally:
        context.close()


class RunPages:
    """
    The pages that MLflow has of one run.

    What is looked for is found by what a person reads (texts, roles, titles), by the names that
    MLflow gives its parts for its own tests (``data-testid``), and by what the drawing library
    keeps with each chart (``.js-plotly-plot``). Names of classes are made anew for every version.

    Args:
        window: Where to open them.
        run_url: The run's own page.
    """

    def __init__(self, window: BrowserContext, run_url: str) -> None:
        self._run_url = run_url
        #: What the pages complained about: errors of scripts, and answers that were none.
        self.complaints: list[str] = []
        self.page: Page = window.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("console", self._listen)

    def _listen(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.complaints.append(f"console: {said.text} ({said.location.get('url')})")

    def close(self) -> None:
        self.page.close()

    def open(self, path: str = "") -> Page:
        """Open a tab of the run, or with ``artifacts/…`` one of its files."""
        # Only what stands before the "#" makes a browser load a page.
        self.page.goto("about:blank")
        self.page.goto(f"{self._run_url}/{path}".rstrip("/") + "?workflowType=machine_learning")
        return self.page

    def open_list(self) -> Page:
        """Open the list of all runs of the same experiment."""
        self.page.goto("about:blank")
        experiment = self._run_url.rpartition("/runs/")[0]
        self.page.goto(f"{experiment}/runs?workflowType=machine_learning")
        return self.page

    def sections(self) -> dict[str, int]:
        """Return the sections of the tab of metrics, with the number of their cards."""
        heads = self.page.get_by_test_id("experiment-view-compare-runs-section-header")
        heads.first.wait_for()
        texts = (head.split("\n") for head in heads.all_inner_texts())
        return {name: int(number.strip("()")) for name, number, *_ in texts}

    def card(self, key: str) -> Locator:
        """Return the card of a chart or an image in the tab of metrics, in view."""
        page = self.page
        title = page.locator(f'h4[title="{key}"]')
        found = page.get_by_test_id("experiment-view-compare-runs-card").filter(has=title)
        # The page makes only the cards that are near: go down until this one is there.
        heads = page.get_by_test_id("experiment-view-compare-runs-section-header")
        for number in range(heads.count()):
            if found.count():
                break
            heads.nth(number).evaluate("head => head.scrollIntoView({ block: 'start' })")
            page.wait_for_timeout(200)
        found.scroll_into_view_if_needed()
        return found

    def html(self) -> Frame:
        """Return the page within the page: MLflow shows an HTML file in a frame of its own."""
        self.page.locator("iframe").wait_for()
        element = self.page.locator("iframe").element_handle()
        frame = element.content_frame() if element is not None else None
        assert frame is not None
        frame.wait_for_load_state()
        return frame
