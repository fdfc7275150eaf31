"""
A tracker of the tests' own that lives in a folder, and the plug-in that delivers to it.

Every call of the backend is a line in ``calls.jsonl``; what goes wrong next is in ``orders.json``,
so that a test can make a backend fail that works in another process. The depot only appends: it
shows what a tracker would hold that cannot tell a batch that comes twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

from pydantic import SecretStr

from tracelet.backends.base import Backend, BackendOptions, Batch, BatchLimits
from tracelet.errors import ConfigError, MissingPackageError, RejectedError, RetryableError
from tracelet.records import RECORD_TYPES, Artifact, Media, RemoteRun, RunInfo, RunStatus

ROOT = Path(__file__).resolve().parent.parent.parent


class DepotOptions(BackendOptions):
    """``folder`` is where the depot is; the others are secrets for it to receive."""

    folder: str
    token: Optional[SecretStr] = None
    url: Optional[str] = None


class DepotBackend(Backend):
    """Writes down what it is given, or does what it was ordered to do instead."""

    name = "depot"
    Options = DepotOptions
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    limits = BatchLimits(max_records=200, max_keys=50)
    environment: ClassVar[tuple[str, ...]] = ("DEPOT_",)

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        assert isinstance(options, DepotOptions)
        self._folder = Path(options.folder)
        self._run = ""
        self._note("make")
        self._obey("make")

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        assert isinstance(self.options, DepotOptions)
        self._obey("open")
        token = self.options.token
        self._run = run.run_id
        self._note(
            "open",
            resume=resume.id if resume else None,
            token=token.get_secret_value() if token else None,
            url=self.options.url,
            environ={key: value for key, value in os.environ.items() if key.startswith("DEPOT_")},
        )
        return RemoteRun(resume.id if resume else f"remote-{run.run_id}")

    def write(self, batch: Batch) -> None:
        self._obey("write")
        self._obey(f"write {batch.lane}", batch)
        self._note(
            "write",
            lane=batch.lane,
            offset=batch.offset,
            resend=batch.resend,
            records=[_shown(record) for record in batch.records],
        )
        self._obey(f"after {batch.lane}")

    def barrier(self) -> None:
        self._obey("barrier")

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        if status is not RunStatus.RUNNING:
            self._obey("close")
        self._note("close", status=status.value, time=time)

    def _note(self, call: str, **more: Any) -> None:
        line = json.dumps(
            {"call": call, "run": self._run, "pid": os.getpid(), "at": time.time(), **more}
        )
        fd = os.open(self._folder / "calls.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with contextlib.closing(os.fdopen(fd, "w")) as file:
            file.write(line + "\n")

    def _obey(self, call: str, batch: Optional[Batch] = None) -> None:
        while True:
            try:
                order = json.loads((self._folder / "orders.json").read_text()).get(call)
            except FileNotFoundError:
                order = None
            kind, text = order or (None, "")
            if kind == "hang":
                time.sleep(0.02)
                continue
            if kind == "sleep":
                time.sleep(float(text))
            elif kind == "print":
                print(text, file=sys.stderr, flush=True)
            elif kind == "retry":
                raise RetryableError(text)
            elif kind == "config":
                raise ConfigError(text)
            elif kind == "missing":
                raise MissingPackageError(text)
            elif kind == "bug":
                raise ZeroDivisionError(text)
            elif kind == "reject" and batch is not None:
                raise RejectedError(range(len(batch.records)), text)
            return


def _shown(record: Any) -> dict[str, Any]:
    values = {**vars(record), "type": type(record).__name__}
    if isinstance(record, Artifact):
        values["content"] = Path(record.source).read_bytes()[:100].decode("latin1")
    if isinstance(record, Media):
        values["data"] = len(record.data)
    return values


class Depot:
    """The far end as a test sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def order(self, **orders: Any) -> None:
        """Say what each call has to do from now on: ``write_heavy=("hang", "")``."""
        text = json.dumps({call.replace("_", " "): order for call, order in orders.items()})
        temporary = self.folder / "orders.new"
        temporary.write_text(text)
        temporary.replace(self.folder / "orders.json")

    def calls(self, kind: Optional[str] = None) -> list[dict[str, Any]]:
        """Return the calls that came, in order."""
        try:
            text = (self.folder / "calls.jsonl").read_text()
        except FileNotFoundError:
            return []
        # What stands behind the last line's end is being written.
        calls = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
        return [call for call in calls if kind in (None, call["call"])]

    def stored(self) -> dict[str, list[dict[str, Any]]]:
        """
        Return for each run what an appending store holds, and check that it could be one.

        Only a batch that was marked may come twice, and then it is the same batch.
        """
        runs: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
        for call in self.calls("write"):
            rows = runs.setdefault(call["run"], {})
            for number, record in enumerate(call["records"], call["offset"]):
                place = (call["lane"], number)
                assert place not in rows or call["resend"], "came twice without a mark"
                assert rows.setdefault(place, record) == record, "another one in its place"
        for rows in runs.values():
            for lane in ("light", "heavy"):
                numbers = sorted(number for each, number in rows if each == lane)
                assert numbers == list(range(len(numbers))), "a hole in the offsets"
        return {run: [rows[place] for place in sorted(rows)] for run, rows in runs.items()}

    def values(self, run: str, key: str = "loss") -> list[Any]:
        """Return the values of a curve, in the order of arrival."""
        records = self.stored().get(run, [])
        return [each["value"] for each in records if each.get("key") == key]

    def status(self) -> Optional[str]:
        """Return what the run that was ended last was ended with."""
        ends = [call["status"] for call in self.calls("close") if call["status"] != "RUNNING"]
        return ends[-1] if ends else None


@contextlib.contextmanager
def plugged_in(folder: Path, patch: Any) -> Iterator[Depot]:
    """Install the plug-in for this process and those that it starts; give the depot."""
    info = folder / "plug-ins" / "depot-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: depot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tracelet.backends]\ndepot = tests.pipeline.depot:DepotBackend\n"
    )
    patch.syspath_prepend(str(info.parent))
    places = [str(info.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    yield Depot(folder / "depot")


def options(depot: Depot, **more: Any) -> Mapping[str, Any]:
    """Return the ``config`` for a run that goes to a depot, and ``more`` options of the depot."""
    return {"depot": {"folder": str(depot.folder), **more}}
