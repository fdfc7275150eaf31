"""What is killed, cut off or slow on the way to W&B: no row is lost, none is there twice."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import psutil
import pytest
from tests.contract.test_wandb import seen
from tests.pipeline.programs import wait_for

from services.wandb_server import KEY, WandbServer
from tracelet.backends.base import Batch
from tracelet.backends.wandb import WandbBackend, WandbOptions
from tracelet.errors import ConfigError, RetryableError
from tracelet.records import Metric, RemoteRun, RunInfo, RunStatus
from tracelet.testing.delivery import Delivery
from tracelet.testing.samples import SAMPLES, TIME, curve, image, metric, param

pytest.importorskip("wandb.sdk")

INFO = RunInfo("20260101-000000-000-0badcafe", "faults", "run", TIME, {}, ())


@pytest.fixture
def server() -> Iterator[WandbServer]:
    found = WandbServer()
    yield found
    found.stop()


@pytest.fixture
def backend(server: WandbServer, tmp_path: Path) -> Iterator[WandbBackend]:
    found = WandbBackend(WandbOptions(url=server.url, api_key=KEY, timeout_s=20))
    found.open(INFO, None, tmp_path / "work")
    yield found
    found.close(RunStatus.RUNNING)


def cores() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "wandb-core" in each.name()]


def loss(server: WandbServer) -> list[tuple[object, float]]:
    return seen(server, INFO.run_id).curve("loss")


def once(count: int) -> list[tuple[object, float]]:
    return [(point.step, point.value) for point in curve("loss", count)]


def until_done(backend: WandbBackend, tries: int = 20) -> None:
    for left in reversed(range(tries)):
        try:
            backend.barrier()
        except RetryableError:
            if not left:
                raise
        else:
            return


@pytest.mark.figure(2)
def test_a_core_that_is_killed_is_replaced(server: WandbServer, backend: WandbBackend) -> None:
    delivery = Delivery(backend)
    delivery.send(*curve("loss", 100))
    [core] = cores()
    core.send_signal(signal.SIGKILL)
    core.wait(10)
    try:
        delivery.send(*curve("loss", 200, 100), image("picture", 3))
    except RetryableError:
        delivery.again()
    until_done(backend)
    assert loss(server) == once(300)
    assert len(seen(server, INFO.run_id).find("image", "picture")) == 1


@pytest.mark.figure(2)
def test_what_a_killed_core_had_sent_without_its_file_is_whole_in_the_end(
    server: WandbServer, backend: WandbBackend
) -> None:
    delivery = Delivery(backend)
    records = [SAMPLES[name] for name in ("text", "table", "image", "audio")]
    delivery.send(*records)
    stored = server.run(INFO.run_id)

    def there() -> set[str]:
        return {key.partition("_table")[0] for row in stored.history for key in row}

    wait_for(lambda: {str(record.key) for record in records} <= there())  # type: ignore[union-attr]
    rows = len(stored.history)
    [core] = cores()
    core.send_signal(signal.SIGKILL)
    core.wait(10)
    for name in [name for name in stored.files if name.startswith("media/")]:
        del stored.files[name]
    delivery.again()
    until_done(backend)
    assert len(stored.history) == rows
    kinds = sorted(item.kind for item in seen(server, INFO.run_id).items)
    assert kinds == ["audio", "image", "table", "text"]


@pytest.mark.figure(2)
def test_answers_that_are_cut_off_again_and_again(
    server: WandbServer, backend: WandbBackend
) -> None:
    delivery = Delivery(backend)
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.4):
            with server.failing("lost_answer", where="file_stream"):
                over.wait(0.2)

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        for first in range(0, 2000, 500):
            try:
                delivery.send(*curve("loss", 500, first))
                backend.barrier()
            except RetryableError:
                delivery.again()
    finally:
        over.set()
        cutting.join()
    until_done(backend)
    assert loss(server) == once(2000)


@pytest.mark.figure(2)
def test_ranges_that_overlap(server: WandbServer, backend: WandbBackend, tmp_path: Path) -> None:
    points = curve("loss", 300)

    def batch(low: int, high: int) -> Batch:
        return Batch(tuple(points[low:high]), offset=low, resend=True)

    for low, high in ((0, 100), (50, 150), (0, 150), (140, 260)):
        backend.write(batch(low, high))
    backend.barrier()
    backend.close(RunStatus.RUNNING)
    # Another shipper, which has only the cursor and the work folder.
    backend.open(INFO, RemoteRun(INFO.run_id), tmp_path / "work")
    for low, high in ((0, 260), (200, 300)):
        backend.write(batch(low, high))
    backend.barrier()
    assert loss(server) == once(300)
    rows = server.run(INFO.run_id).history
    assert [row["_step"] for row in rows] == list(range(300))


@pytest.mark.figure(2)
def test_lanes_that_come_back_in_another_order(server: WandbServer, tmp_path: Path) -> None:
    """The heavy lane was first, then everybody died; now the light one comes first."""
    light = Batch(tuple(curve("loss", 50)))
    heavy = Batch((image("picture", 1), image("picture", 2)), lane="heavy")
    first = WandbBackend(WandbOptions(url=server.url, api_key=KEY))
    first.open(INFO, None, tmp_path / "work")
    first.write(heavy)
    first.write(light)
    for core in cores():
        core.send_signal(signal.SIGKILL)
        core.wait(10)
    first.close(RunStatus.RUNNING)
    second = WandbBackend(WandbOptions(url=server.url, api_key=KEY))
    second.open(INFO, RemoteRun(INFO.run_id), tmp_path / "work")
    for batch in (light, heavy):
        second.write(replace(batch, resend=True))
    second.barrier()
    second.close(RunStatus.FINISHED)
    found = seen(server, INFO.run_id)
    assert found.curve("loss") == once(50)
    assert sorted(item.step for item in found.find("image", "picture")) == [1, 2]
    assert cores() == []


def test_a_core_that_does_not_come_to_an_end_is_killed(server: WandbServer, tmp_path: Path) -> None:
    backend = WandbBackend(WandbOptions(url=server.url, api_key=KEY, timeout_s=4))
    backend.open(INFO, None, tmp_path / "work")
    [core] = cores()
    with server.failing("hang", where="file_stream"):
        Delivery(backend).send(*curve("loss", 10))
        with pytest.raises(RetryableError, match="took longer than 4"):
            backend.barrier()
        assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
    until_done(backend)
    backend.close(RunStatus.FINISHED)
    assert loss(server) == once(10)
    assert cores() == []


def test_what_counts_as_silence_is_the_servers_and_not_that_of_a_busy_core(
    server: WandbServer, tmp_path: Path
) -> None:
    """The end of a program waits for the one and not for the other."""
    backend = WandbBackend(WandbOptions(url=server.url, api_key=KEY, timeout_s=120))
    backend.open(INFO, None, tmp_path / "work")
    Delivery(backend).send(*curve("loss", 100))
    [core] = cores()
    core.suspend()
    waiting = threading.Thread(target=until_done, args=(backend,))
    waiting.start()
    try:
        asked = len(server.asked)
        wait_for(lambda: server.asked[asked:].count("viewer") >= 4)
        assert backend.silence() == 0.0
        with server.failing("hang"):
            wait_for(lambda: backend.silence() > 2.0)
        wait_for(lambda: backend.silence() == 0.0)
    finally:
        core.resume()
        waiting.join()
    assert backend.silence() == 0.0
    backend.close(RunStatus.FINISHED)
    assert loss(server) == once(100)


def test_rows_of_one_step_are_one_row_and_keep_their_time(
    server: WandbServer, backend: WandbBackend
) -> None:
    """The pure rule: same step, within a second, each key once."""
    points = [
        *(metric(key, 0.5, 1, TIME) for key in "abc"),
        metric("a", 0.75, 1, TIME + 0.1),
        metric("b", 1.0, 1, TIME + 5),
        metric("a", 2.0, 2, TIME + 5),
    ]
    Delivery(backend).send(*points, param("lr", 0.1))
    backend.barrier()
    rows = [
        {key: value for key, value in row.items() if key not in ("_step", "_runtime")}
        for row in server.run(INFO.run_id).history
    ]
    assert rows == [
        {"global_step": 1, "_timestamp": TIME, "a": 0.5, "b": 0.5, "c": 0.5},
        {"global_step": 1, "_timestamp": TIME + 0.1, "a": 0.75},
        {"global_step": 1, "_timestamp": TIME + 5, "b": 1},
        {"global_step": 2, "_timestamp": TIME + 5, "a": 2},
    ]


def test_the_summary_has_the_value_of_the_largest_step(
    server: WandbServer, backend: WandbBackend
) -> None:
    sent = [metric("loss", 1.0, 1), metric("loss", 3.0, 3), metric("loss", 2.0, 2)]
    Delivery(backend).send(*sent, Metric("global_step", 7.0, 3, TIME))
    backend.barrier()
    backend.close(RunStatus.FINISHED)
    run = server.run(INFO.run_id)
    assert run.summary["loss"] == 3
    assert seen(server, INFO.run_id).curve("global_step") == [(3, 7.0)]
    assert run.state == "finished"


# -- before training ----------------------------------------------------------------------------


def resolved(tmp_path: Path, environ: dict[str, str], **options: object) -> WandbBackend:
    found, _ = WandbBackend.resolve(options, environ, tmp_path)
    return WandbBackend(found)


def test_what_wandbs_own_variables_and_files_say(tmp_path: Path, server: WandbServer) -> None:
    Path.home().joinpath(".netrc").write_text(f"machine 127.0.0.1 login user password {KEY}\n")
    try:
        (tmp_path / "wandb").mkdir()
        settings = "[default]\nentity = team\nproject = kept\nbase_url = http://nowhere:1\n"
        (tmp_path / "wandb" / "settings").write_text(settings)
        environ = {"WANDB_BASE_URL": f"{server.url}/", "WANDB_RUN_GROUP": "g"}
        backend = resolved(tmp_path, environ, project="mine")
        options = WandbOptions.model_validate(backend.options.model_dump())
        assert (options.url, options.entity) == (server.url, "team")
        assert (options.project, options.group, options.mode) == ("mine", "g", "online")
        backend.preflight()
    finally:
        Path.home().joinpath(".netrc").unlink()
    options, sources = WandbBackend.resolve({}, {"WANDB_API_KEY": KEY}, tmp_path)
    assert sources == {"api_key": "env:WANDB_API_KEY"}
    assert WandbBackend.resolve({}, {"WANDB_MODE": "dryrun"}, tmp_path)[0].mode == "offline"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"WANDB_BASE_URL": "api.wandb.ai"}, "write 'https://api.wandb.ai'"),
        ({"WANDB_BASE_URL": "https://wandb.ai"}, "the web page"),
        ({"WANDB_MODE": "disabled"}, "nothing would be sent"),
        ({"WANDB_DISABLED": "true"}, "switches W&B off"),
    ],
)
def test_what_can_never_work(tmp_path: Path, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        WandbBackend.resolve({}, environ, tmp_path)


def test_what_the_preflight_says(tmp_path: Path, server: WandbServer) -> None:
    def says(kind: type[Exception], url: str, **options: object) -> str:
        with pytest.raises(kind) as caught:
            resolved(tmp_path, {}, url=url, **options).preflight()
        return str(caught.value)

    assert "set WANDB_API_KEY" in says(ConfigError, server.url)
    assert "has 7 characters" in says(ConfigError, server.url, api_key="too few")
    assert "does not know the key" in says(ConfigError, server.url, api_key="f" * 40)
    with server.failing("unavailable"):
        assert "answered 503" in says(RetryableError, server.url, api_key=KEY)
    assert "cannot be reached" in says(RetryableError, "http://127.0.0.1:9", api_key=KEY)
    resolved(tmp_path, {}, url=server.url, api_key=f"local-{KEY}", mode="offline").preflight()


def test_the_vendors_own_capture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = resolved(tmp_path, {})
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(patched={"tensorboard": []}))  # type: ignore[arg-type]
    assert backend.doubts("project") == []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(patched={"tensorboard": [1]}))  # type: ignore[arg-type]
    [found] = backend.doubts("project")
    assert "everything is there twice" in str(found)
    assert "becomes 'a_b'" in str(backend.doubts("a/b"))
    assert os.environ.get("WANDB_SILENT") is None
