"""Bounded in number, complete in data: what a long run leaves in MLflow, also after a crash."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

import pytest

from services.mlflow_reader import tracking
from services.mlflow_server import Server
from tracelet.backends.base import Batch, RemoteRun, RunStatus
from tracelet.backends.mlflow import MlflowBackend, places
from tracelet.backends.mlflow.archive import Archive
from tracelet.backends.mlflow.histograms import Histograms
from tracelet.backends.mlflow.media import put_media, put_table
from tracelet.backends.mlflow.parts import Entry, Parts, digest_of
from tracelet.backends.mlflow.sieve import FILES_AT_A_PACE, Sieve
from tracelet.errors import RetryableError
from tracelet.records import Histogram, Media, Record, RunInfo, Table, Text
from tracelet.testing.samples import SAMPLES, TIME, png


class Crash(BaseException):
    """The lights go out: nothing of ours catches this."""


class Shop:
    """Artifacts in memory; the lights go out before or after the n-th thing that is put there."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.crash_at: Optional[int] = None
        self.refuse_at: Optional[int] = None
        self.after = False

    def put(self, path: str, source: Any) -> None:
        self.puts.append(path)
        if len(self.puts) == self.refuse_at:
            raise RetryableError("the server is away")
        due = len(self.puts) == self.crash_at
        if due and not self.after:
            raise Crash
        self.files[path] = source if isinstance(source, bytes) else Path(source).read_bytes()
        if due:
            raise Crash

    def close(self) -> None:
        pass


def picture(step: int, key: str = "a", index: int = 0, size: int = 40) -> Media:
    data = b"%d %d %s " % (step, index, key.encode()) + b"x" * size
    return Media("image", key, data, "image/png", step, TIME + step, index=index)


def distribution(step: int, key: str = "w") -> Histogram:
    return Histogram(key, (0.0, 1.0, 2.0), (1.0, step + 1.0), 0.0, 2.0, 1.0, 1.0, step, TIME + step)


# -- which ones are shown ---------------------------------------------------------------------


def chosen(steps: int, members: int = 1) -> list[tuple[int, int]]:
    sieve, found = Sieve(), []
    for step in range(steps):
        for place in range(members):
            sieve = Sieve(*json.loads(json.dumps(sieve.after(step, TIME + step, place).as_json())))
            if sieve.shown:
                found.append((step, place))
    return found


def test_the_first_steps_are_shown_then_every_second_then_every_fourth() -> None:
    steps = [step for step, _ in chosen(400)]
    n = FILES_AT_A_PACE
    assert steps[:n] == list(range(n))
    assert steps[n : 2 * n] == list(range(n, 3 * n, 2))
    assert steps[2 * n : 3 * n] == list(range(3 * n + 2, 7 * n + 2, 4))


@pytest.mark.parametrize("steps", [1, 50, 51, 1000, 100_000])
def test_the_number_of_files_grows_with_the_logarithm(steps: int) -> None:
    n = FILES_AT_A_PACE
    assert len(chosen(steps)) <= n * math.log2(steps / n + 1) + n
    assert len(chosen(steps)) >= min(steps, n)


def test_what_is_shown_stays_shown() -> None:
    for steps in (10, 60, 200, 999):
        assert chosen(1000)[: len(chosen(steps))] == chosen(steps)


def test_a_batch_is_shown_as_one_and_no_batch_is_endless() -> None:
    found = chosen(1000, members=8)
    assert set(Counter(step for step, _ in found).values()) == {8}
    assert len(found) < FILES_AT_A_PACE * (math.log2(8000 / FILES_AT_A_PACE) + 2)
    large = Counter(step for step, _ in chosen(40, members=200))
    assert set(large.values()) == {FILES_AT_A_PACE}
    assert len(large) < 10


def test_a_step_that_repeats_is_another_step() -> None:
    """A key without steps of its own, or a loop that logs everything as step 0."""
    sieve = Sieve()
    for _ in range(1000):
        sieve = sieve.after(0, TIME, 0)
    assert sieve.steps == 1000
    assert sieve.stride > 8


# -- parts ------------------------------------------------------------------------------------


def plain(entries: Iterator[Entry], data: Path, target: Path) -> None:
    """Put everything into one text, as a packing that hides nothing."""
    with open(data, "rb") as source:
        lines = [entry.line + b" " + source.read(entry.size) for entry in entries]
    target.write_bytes(b"\n".join(lines))


def parts_in(folder: Path) -> Parts:
    return Parts(folder, lambda number: f"part{number}", plain)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few records; and a disk that keeps what it took, as long as no power is cut."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("tracelet.backends.mlflow.parts._SMALLEST_BYTES", 600)
    monkeypatch.setattr("tracelet.backends.mlflow.parts._LARGEST_BYTES", 1200)


def test_parts_become_larger_so_that_there_are_not_very_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelet.backends.mlflow.parts._SMALLEST_BYTES", 100)
    monkeypatch.setattr("tracelet.backends.mlflow.parts._LARGEST_BYTES", 800)
    shop, parts = Shop(), parts_in(tmp_path)
    for number in range(3000):
        if parts.full:
            parts.turn(shop, {})
        parts.add(digest_of(b"%d" % number), b"%09d" % number)
    parts.upload(shop)
    sizes = [len(data) for data in shop.files.values()]
    assert sizes[0] == 109
    assert max(sizes) < 890
    # A fixed size of 100 would make 300.
    assert len(sizes) == 3 * 8 + math.ceil((30_000 - 8 * (110 + 200 + 400)) / 800)


def test_a_part_that_ended_is_forgotten_here_and_known_for_ever(
    small: None, tmp_path: Path
) -> None:
    shop, parts = Shop(), parts_in(tmp_path)
    for number in range(200):
        if parts.full:
            parts.turn(shop, {"so far": number})
        parts.add(digest_of(b"%d" % number), b"%d" % number, b"y" * 50)
    parts.upload(shop)
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert kept < 200 * 12 + 4000
    again = parts_in(tmp_path)
    assert again.records == 200
    # In their order, out of it, and what is new.
    assert all(again.knows(digest_of(b"%d" % number), resend=True) for number in range(200))
    assert again.knows(digest_of(b"7"), resend=True)
    assert not again.knows(digest_of(b"200"), resend=True)
    assert again.state["so far"] > 150


def test_a_line_whose_data_a_power_cut_took_is_not_there(tmp_path: Path) -> None:
    parts = parts_in(tmp_path)
    for number in range(3):
        parts.add(digest_of(b"%d" % number), b"%d" % number, b"y" * 50)
    with open(tmp_path / "000000.data", "r+b") as file:
        file.truncate(120)
    again = parts_in(tmp_path)
    assert again.records == 2
    assert not again.knows(digest_of(b"2"), resend=True)
    again.add(digest_of(b"2"), b"2", b"z" * 50)
    shop = Shop()
    again.upload(shop)
    assert shop.files["part1"].count(b"z" * 50) == 1


def test_a_line_that_was_cut_is_taken_again(tmp_path: Path) -> None:
    parts = parts_in(tmp_path)
    parts.add(digest_of(b"0"), b"0", b"y" * 50)
    with open(tmp_path / "000000.lines", "ab") as file:
        file.write(digest_of(b"1").hex().encode()[:20])
    with open(tmp_path / "000000.data", "ab") as file:
        file.write(b"half of it")
    again = parts_in(tmp_path)
    assert not again.knows(digest_of(b"1"), resend=True)
    again.add(digest_of(b"1"), b"1", b"z" * 50)
    shop, third = Shop(), parts_in(tmp_path)
    assert third.knows(digest_of(b"1"), resend=False)
    third.upload(shop)
    assert shop.files["part1"] == b"0 " + b"y" * 50 + b"\n1 " + b"z" * 50


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_in(tmp_path)
    parts.add(digest_of(b"0"), b"0", b"y" * 50)

    def full(*_: object, **__: object) -> None:
        with open(tmp_path / "000000.data", "ab") as file:
            file.write(b"half")
        raise RetryableError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("tracelet.backends.mlflow.parts.append", full)
        with pytest.raises(RetryableError):
            parts.add(digest_of(b"1"), b"1", b"z" * 50)
    assert not parts.knows(digest_of(b"1"), resend=False)
    parts.add(digest_of(b"1"), b"1", b"z" * 50)
    shop = Shop()
    parts.upload(shop)
    assert shop.files["part1"] == b"0 " + b"y" * 50 + b"\n1 " + b"z" * 50


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="platform: no device that is full")
def test_a_disk_that_is_full_is_an_outage_and_no_fault_of_a_record(tmp_path: Path) -> None:
    """A record that was refused three times would be set aside for good."""
    parts, shop = parts_in(tmp_path), Shop()
    parts.add(digest_of(b"0"), b"0", b"y" * 50)
    (tmp_path / "packed").symlink_to("/dev/full")
    with pytest.raises(RetryableError):
        parts.upload(shop)
    (tmp_path / "packed").unlink()
    parts.upload(shop)
    assert shop.files["part1"] == b"0 " + b"y" * 50


# -- media: some as files, the others in archives ---------------------------------------------


class Carrier:
    """Brings media and histograms of a made-up run to a shop, as an open run does."""

    def __init__(self, folder: Path, shop: Shop) -> None:
        self.shop = shop
        self.archive = Archive(folder / "media", "", str)
        self.histograms = Histograms(folder / "histograms", str)

    def send(self, records: Sequence[Record], *, resend: bool = False) -> None:
        for record in records:
            if isinstance(record, Histogram):
                self.histograms.add(record, self.shop, resend=resend)
            elif isinstance(record, (Media, Table)):
                self.archive.add(record, self.shop, lambda: self.show(record), resend=resend)  # noqa: B023

    def show(self, record: Record) -> None:
        if isinstance(record, Table):
            put_table(self.shop, record, str)
        elif isinstance(record, Media):
            put_media(self.shop, record, str, str)

    def barrier(self, *, last: bool = False) -> None:
        self.archive.upload(self.shop)
        self.histograms.upload(self.shop, last=last)


def in_archives(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    found = []
    for path in sorted(files):
        if path.startswith("tensorboard/data/media"):
            with zipfile.ZipFile(io.BytesIO(files[path])) as archive:
                assert archive.testzip() is None
                names = archive.namelist()
                assert len(set(names)) == len(names)
                for line in archive.read("index.jsonl").splitlines():
                    item = json.loads(line)
                    found.append({**item, "data": archive.read(item["file"])})
    return found


def in_lines(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(files)
        if path.startswith("tensorboard/data/histograms")
        for line in gzip.decompress(files[path]).splitlines()
    ]


def full_size(files: Mapping[str, bytes]) -> list[bytes]:
    return [
        data for path, data in files.items() if path.startswith("images/") and "+comp" not in path
    ]


def everywhere(files: Mapping[str, bytes]) -> Counter[bytes]:
    """Count in how many places the full bytes of each picture are."""
    return Counter([*full_size(files), *(item["data"] for item in in_archives(files))])


def test_a_run_of_three_pictures_has_no_archive(tmp_path: Path) -> None:
    shop = Shop()
    carrier = Carrier(tmp_path, shop)
    carrier.send([picture(step) for step in range(3)])
    carrier.barrier(last=True)
    assert len(shop.files) == 6
    assert all(path.startswith("images/") for path in shop.files)


def test_every_picture_is_whole_in_exactly_one_place(small: None, tmp_path: Path) -> None:
    shop, records = Shop(), [picture(step, key) for step in range(300) for key in ("a", "b/c")]
    carrier = Carrier(tmp_path, shop)
    for start in range(0, len(records), 25):
        carrier.send(records[start : start + 25])
        carrier.barrier()
    assert everywhere(shop.files) == Counter(record.data for record in records)
    assert len(full_size(shop.files)) == 2 * len(chosen(300))
    shown = [path for path in shop.files if path.startswith("images/")]
    assert len(shown) == len([path for path in shop.puts if path.startswith("images/")])
    item = in_archives(shop.files)[0]
    assert re.fullmatch(r"image/a/step_000051_[0-9a-f]{12}\.png", item["file"])
    assert (item["kind"], item["key"], item["step"], item["time"], item["mime"]) == (
        *("image", "a", 51, TIME + 51, "image/png"),
    )


KINDS = sorted({record.kind for record in SAMPLES.values() if isinstance(record, Media)})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_makes_files_is_bounded_and_complete(kind: str, tmp_path: Path) -> None:
    """Whatever is drawn of a record beside it: its own bytes are in one place."""
    shop = Shop()
    carrier = Carrier(tmp_path, shop)
    records = [
        Media(kind, "k", b"%s %d" % (kind.encode(), step), "", step, TIME + step)
        for step in range(200)
    ]
    wanted = {record.data for record in records}
    carrier.send(records)
    carrier.barrier()
    files = {
        path: data
        for path, data in shop.files.items()
        if data in wanted and "+compressed" not in path
    }
    kept = [item["data"] for item in in_archives(shop.files)]
    assert Counter([*files.values(), *kept]) == Counter(wanted)
    assert len(files) == len(chosen(200))


def test_tables_are_bounded_and_complete(tmp_path: Path) -> None:
    shop = Shop()
    carrier = Carrier(tmp_path, shop)
    carrier.send([Table("t", ["n"], [[step]], step, TIME + step) for step in range(200)])
    carrier.barrier()
    files = [json.loads(data) for path, data in shop.files.items() if "/tables/" in path]
    kept = [json.loads(item["data"]) for item in in_archives(shop.files)]
    assert len(files) == len(chosen(200))
    assert sorted(table["data"][0][0] for table in (*files, *kept)) == list(range(200))


def test_pictures_of_one_step_and_moment_are_all_there(tmp_path: Path) -> None:
    """Somebody who gives every picture the same step and the same wall time."""
    shop = Shop()
    carrier = Carrier(tmp_path, shop)
    records = [Media("image", "a", b"%d" % n, "image/png", 0, TIME) for n in range(120)]
    carrier.send(records)
    carrier.send(records, resend=True)
    carrier.barrier()
    assert everywhere(shop.files) == Counter(record.data for record in records)


def test_the_same_records_make_the_same_files_wherever_and_whenever(
    small: None, tmp_path: Path
) -> None:
    """Barriers come at other moments on another machine, which has nothing but the spool."""
    records = [picture(step) for step in range(200)]
    one, other = Shop(), Shop()
    first = Carrier(tmp_path / "first", one)
    for record in records:
        first.send([record])
        first.barrier()
    second = Carrier(tmp_path / "second", other)
    second.send(records, resend=True)
    second.barrier()
    assert one.files == other.files
    # The same shop as well: nothing is doubled there.
    second = Carrier(tmp_path / "third", one)
    second.send(records, resend=True)
    second.barrier()
    assert one.files == other.files


def test_little_is_sent_again_and_little_is_kept(small: None, tmp_path: Path) -> None:
    shop = Shop()
    carrier = Carrier(tmp_path, shop)
    for step in range(600):
        carrier.send([picture(step)])
        if step % 5 == 0:
            carrier.barrier()
    carrier.barrier()
    counts = Counter(path for path in shop.puts if "/data/" in path)
    assert len(counts) > 20
    assert max(counts.values()) < 8
    here = sum(path.stat().st_size for path in (tmp_path / "media").iterdir())
    assert here < 5000 + 12 * 600


# -- crashes ----------------------------------------------------------------------------------


@pytest.fixture
def short(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in which little is shown, so that all happens in few steps."""
    monkeypatch.setattr("tracelet.backends.mlflow.sieve.FILES_AT_A_PACE", 6)


def disturbed(folder: Path, shop: Shop, batches: Sequence[Sequence[Record]]) -> None:
    """
    Send batches as a shipper does that dies, and the next one that goes on.

    What was written since the last barrier that was answered goes again.
    """
    confirmed = begin = 0
    carrier = Carrier(folder, shop)
    for attempt in range(3):
        try:
            for number in range(begin, len(batches)):
                carrier.send(batches[number], resend=number < begin + 3 and attempt > 0)
                if number % 3 == 2:
                    carrier.barrier()
                    confirmed = number + 1
            carrier.barrier(last=True)
        except Crash:
            carrier = Carrier(folder, shop)
        except RetryableError:
            pass  # the same process tries again
        else:
            return
        begin = confirmed
    raise AssertionError("it never came to its end")


def batches_of_everything() -> list[list[Record]]:
    records: list[Record] = []
    for step in range(24):
        records += [picture(step), picture(step, "b", 0), picture(step, "b", 1)]
        records += [distribution(step), Table("t", ["n"], [[step]], step, TIME + step)]
    return [records[start : start + 20] for start in range(0, len(records), 20)]


@pytest.mark.parametrize("how", ["before", "after", "refused"])
def test_a_crash_at_any_upload_changes_nothing(short: None, tmp_path: Path, how: str) -> None:
    batches, calm = batches_of_everything(), Shop()
    disturbed(tmp_path / "calm", calm, batches)
    assert len({path for path in calm.files if "/data/" in path}) > 8
    data = [place for place, path in enumerate(calm.puts, 1) if "/data/" in path]
    # Every upload of a data file, and some of the others.
    for place in sorted({*data, *range(1, len(calm.puts), 11)}):
        shop = Shop()
        shop.after = how == "after"
        if how == "refused":
            shop.refuse_at = place
        else:
            shop.crash_at = place
        folder = tmp_path / str(place)
        disturbed(folder, shop, batches)
        assert shop.files == calm.files, place
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["append", "replace_file", "_sync"])
def test_a_crash_at_any_note_changes_nothing(
    short: None, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two notes of ours on this machine's disk, or in the middle of one."""
    from tracelet.backends.mlflow import parts

    batches, calm = batches_of_everything(), Shop()
    disturbed(tmp_path / "calm", calm, batches)
    original, seen = getattr(parts, name), 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 2 * at:
            original(*arguments, **named)
            raise Crash
        if seen == 2 * at + 1:
            raise Crash
        original(*arguments, **named)

    monkeypatch.setattr(parts, name, counted)
    for at in [*range(1, 12), *range(12, 150, 13)]:
        shop, seen = Shop(), 0
        disturbed(tmp_path / str(at), shop, batches)
        assert shop.files == calm.files, at
        shutil.rmtree(tmp_path / str(at))


def test_another_host_with_nothing_but_the_spool_makes_the_same(
    short: None, tmp_path: Path
) -> None:
    batches, calm, shop = batches_of_everything(), Shop(), Shop()
    disturbed(tmp_path / "calm", calm, batches)
    first = Carrier(tmp_path / "first", shop)
    for batch in batches[:9]:
        first.send(batch)
    first.barrier()
    second = Carrier(tmp_path / "second", shop)
    for batch in batches:
        second.send(batch, resend=True)
    second.barrier(last=True)
    assert shop.files == calm.files


# -- histograms -------------------------------------------------------------------------------


def page_data(files: Mapping[str, bytes]) -> Any:
    text = files["tensorboard/histograms.html"].decode()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("draws", [(), (5, 6, 7), range(300)])
def test_what_is_drawn_does_not_depend_on_when(draws: Sequence[int], tmp_path: Path) -> None:
    shop = Shop()
    line = Histograms(tmp_path, str)
    for step in range(400):
        line.add(distribution(step), shop)
        if step in draws:
            line.upload(shop, last=True)
    line.upload(shop, last=True)
    shown = [row[0] for row in page_data(shop.files)["rows"][0]]
    assert shown == [*range(0, 400, 4), 399]


def test_the_page_of_very_many_keys_and_steps_can_still_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small: the limits are a hundredth of the real ones."""
    for name, value in (("_ALL_ROWS", 240), ("_KEYS_DRAWN", 30), ("_KEYS_MAPPED", 3)):
        monkeypatch.setattr(f"tracelet.backends.mlflow.histograms.{name}", value)
    shop = Shop()
    line = Histograms(tmp_path, str)
    for step in range(200):
        line.add(distribution(step, "early"), shop)
    for step in range(20):
        for key in range(40):
            line.add(distribution(step, f"layer{key}"), shop)
    line.upload(shop, last=True)
    found = page_data(shop.files)
    assert len(found["keys"]) == 30
    assert sum(map(len, found["rows"])) <= 240
    # It says what it leaves out, and nothing is missing beside it.
    place = found["keys"].index("early")
    assert found["steps"][place] == 200
    assert len(found["rows"][place]) <= 8
    assert found["left"] == 11 * 20
    assert len(in_lines(shop.files)) == 200 + 40 * 20
    assert len(full_size(shop.files)) == 3
    # The next shipper draws the same.
    Histograms(tmp_path, str).upload(shop, last=True)
    assert page_data(shop.files) == found


def test_the_real_limits_keep_the_page_below_ten_megabytes() -> None:
    from tracelet.backends.mlflow import histograms
    from tracelet.backends.mlflow.page import Shown, page
    from tracelet.backends.mlflow.rows import row_of

    counts = [float(7919 * n % 9973) for n in range(60)]
    edges = [-1.2345678 + n / 7 for n in range(61)]
    found = Histogram("w", edges, counts, -1.23456, 7.5, 1e7, 1e9, 123_456, TIME + 0.123)
    rows = histograms._ALL_ROWS
    least = histograms._FEWEST_ROWS * histograms._KEYS_DRAWN
    assert max(rows, least) * len(page({"w": Shown([row_of(found)] * 100, 1)})) / 100 < 10e6


# -- what belongs to whom ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("images", "images/x", "IMAGES/x.png", "images./x", "images /x", "./images/x"),
        *("images//x", "\uff49mages/x", "ima\u200bges/x", "images\\x", "tensorboard/data/x"),
        *("tensorboard/histograms.html", "tensorboard/histograms-1f0c2a.html", "tensorboard"),
        *("Tensorboard/Raw/x", "tracelet", "tracelet/tags/x", "tensorboard./text/x"),
    ],
)
def test_a_place_of_ours_is_known_in_every_spelling(path: str) -> None:
    assert places.moved(path) == f"files/{path}"


@pytest.mark.parametrize(
    "path",
    [
        *("images2/x", "my/images/x", "image/x", "tensorboard/events/x", "tracelet.txt"),
        *("checkpoints/images", "tensorboard/other.html", "ímages/x", ".images/x"),
    ],
)
def test_every_other_place_is_the_users(path: str) -> None:
    assert places.moved(path) is None


class Runs:
    """Several trainings, each with a spool of its own, in one store."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store

    def open(
        self, name: str, resume: Optional[RemoteRun] = None
    ) -> tuple[MlflowBackend, RemoteRun]:
        options, _ = MlflowBackend.resolve({"url": self.store}, {}, self.folder)
        backend = MlflowBackend(options)
        info = RunInfo(
            f"20231114-221320-{name}", "bounded", "one", TIME, {}, ("mlflow",), cwd=str(self.folder)
        )
        return backend, backend.open(info, resume, self.folder / f"work-{name}")

    def files(self, remote: RemoteRun) -> dict[str, bytes]:
        with tracking(self.store) as client:
            root = Path(client.get_run(remote.id).info.artifact_uri)
        found = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def runs(tmp_path: Path, fresh_database: Path) -> Runs:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return Runs(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


def send(backend: MlflowBackend, first: int, last: int) -> None:
    for step in range(first, last):
        small = Media("image", "a", png(step % 250), "image/png", step, TIME + step)
        text = Text("t", f"number {step}.", step, TIME + step)
        backend.write(Batch((small, distribution(step), text), lane="heavy"))


def test_a_run_that_is_continued_keeps_what_it_has(runs: Runs) -> None:
    """Another training, another spool: it knows nothing of the files that are there."""
    backend, remote = runs.open("0000aaaa")
    send(backend, 0, 60)
    backend.close(RunStatus.FINISHED)
    before = runs.files(remote)
    backend, _ = runs.open("0000bbbb", RemoteRun(remote.id))
    send(backend, 60, 120)
    backend.close(RunStatus.RUNNING)
    backend, _ = runs.open("0000bbbb", RemoteRun(remote.id, facts={"page": "x"}))
    send(backend, 120, 130)
    backend.close(RunStatus.FINISHED)
    after = runs.files(remote)
    assert {path: after[path] for path in before} == before
    assert sorted(line["step"] for line in in_lines(after)) == list(range(130))
    texts = b"".join(data for path, data in after.items() if path.startswith("tensorboard/text/"))
    assert sorted(map(int, re.findall(rb"number (\d+)\.", texts))) == list(range(130))
    assert len([path for path in after if re.match(r"tensorboard/histograms.*html", path)]) == 2
    shown, kept = full_size(after), in_archives(after)
    # And the heat map of each.
    assert len(shown) - 2 + len(kept) == 130


def test_a_run_of_the_users_gets_plain_names_once(runs: Runs) -> None:
    with tracking(runs.store) as client:
        theirs = client.create_run(client.create_experiment("theirs")).info.run_id
    for name in ("0000aaaa", "0000bbbb"):
        backend, remote = runs.open(name, RemoteRun(theirs))
        send(backend, 0, 2)
        backend.close(RunStatus.RUNNING)
    pages = [path for path in runs.files(remote) if path.endswith(".html")]
    assert len(pages) == 2
    assert "tensorboard/histograms.html" in pages


def test_a_work_folder_that_is_lost_costs_no_file(runs: Runs) -> None:
    """Its cursor says that all was delivered: what follows must not replace it."""
    backend, remote = runs.open("0000aaaa")
    send(backend, 0, 60)
    backend.close(RunStatus.RUNNING)
    before = runs.files(remote)
    shutil.rmtree(runs.folder / "work-0000aaaa")
    backend, _ = runs.open("0000aaaa", remote)
    send(backend, 60, 130)
    backend.close(RunStatus.RUNNING)
    after = runs.files(remote)
    assert {path: after[path] for path in before} == before
    assert sorted(line["step"] for line in in_lines(after)) == list(range(130))


def test_the_grid_and_the_archives_arrive_through_a_server(
    mlflow_server: Server, tmp_path: Path
) -> None:
    """Read back as a person does: with MLflow's client and nothing of ours."""
    options, _ = MlflowBackend.resolve({"url": mlflow_server.url}, {}, tmp_path)
    backend = MlflowBackend(options)
    info = RunInfo("20231114-221320-0bounded", "bounded", "one", TIME, {}, ("mlflow",))
    remote = backend.open(info, None, tmp_path / "work")
    send(backend, 0, 70)
    backend.close(RunStatus.FINISHED)
    with tracking(mlflow_server.url) as client:
        found = [item.path for item in client.list_artifacts(remote.id, "images")]
        archive = client.download_artifacts(
            remote.id, "tensorboard/data/media-0001.zip", str(tmp_path)
        )
    pictures = [path for path in found if "+compressed" not in path and "histograms~" not in path]
    assert len(pictures) == len(chosen(70))
    with zipfile.ZipFile(archive) as opened:
        lines = [json.loads(line) for line in opened.read("index.jsonl").splitlines()]
        assert [line["step"] for line in lines] == list(range(51, 70, 2))
        assert all(opened.read(line["file"]) == png(line["step"]) for line in lines)
