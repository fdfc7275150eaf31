"""Aim's own page of a run, as a person sees it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.aim_server import AimProcess, fresh_aim
from services.browser import browser, window
from tracelet.backends.base import Batch, RunInfo, RunStatus
from tracelet.testing.samples import SAMPLES, TIME, curve, param, tag

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser", "fresh_aim"]

if sys.version_info >= (3, 13):
    pytest.skip("platform: Aim has no build for this Python", allow_module_level=True)
pytest.importorskip("aim")

pytestmark = pytest.mark.slow


def test_a_run_shows_everything(browser: Browser, fresh_aim: Path, tmp_path: Path) -> None:
    from tracelet.backends.aim import AimBackend, AimOptions

    store = tmp_path / "store"
    shutil.copytree(fresh_aim, store)
    backend = AimBackend(AimOptions(url=str(store)))
    info = RunInfo("20231114-221320-ui", "vision", "baseline", TIME, {}, ["aim"])
    remote = backend.open(info, None, tmp_path / "work")
    backend.write(Batch([*curve("loss", 20), param("lr", 0.125), tag("team", "ml")]))
    backend.write(Batch(list(SAMPLES.values()), lane="heavy"))
    backend.close(RunStatus.FINISHED, TIME + 60)
    up = AimProcess(store, "up", "/api/projects/")
    try:
        up.start()
        with window(browser, (1280, 1000)) as opened:
            page = opened.new_page()
            for tab, words in {
                "overview": ["vision", "baseline", "Finished", "hparams.lr", "0.125", "team: ml"],
                "metrics": ["loss", "Empty context"],
                "distributions": ["weights/fc1", "Step 3"],
                "images": ["predictions", "rollout"],
                "audios": ["speech"],
                "texts": ["notes", "graph", "layout"],
                "figures": ["confusion", "shape"],
            }.items():
                page.goto(f"{up.page}/runs/{remote.id}/{tab}")
                for word in words:
                    page.get_by_text(word).locator("visible=true").first.wait_for(timeout=30_000)
            # The table among the figures is drawn by the page's own Plotly.
            page.locator(".js-plotly-plot").first.wait_for()
    finally:
        up.kill()
