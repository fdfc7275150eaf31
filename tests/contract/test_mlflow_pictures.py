"""What a person looks at: the image grid, heat maps, the page of histograms, texts, tables."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import pytest
from PIL import Image as Pillow

from services.mlflow_reader import tracking
from tracelet.backends.base import Batch, RemoteRun, RunStatus
from tracelet.backends.mlflow import MlflowBackend
from tracelet.backends.mlflow.heatmap import heat_map
from tracelet.backends.mlflow.histograms import Histograms, page_path
from tracelet.backends.mlflow.images import thumbnail
from tracelet.backends.mlflow.journal import Journal
from tracelet.backends.mlflow.media import tables_tag
from tracelet.backends.mlflow.page import Shown, page
from tracelet.backends.mlflow.pixels import Pixels
from tracelet.backends.mlflow.rows import BARS, Curve, Row, row_of
from tracelet.backends.mlflow.text import Texts
from tracelet.errors import RejectedError, RetryableError
from tracelet.records import Artifact, Histogram, Media, Record, RunInfo, Table, Text
from tracelet.testing.samples import SAMPLES, TIME, gif, image, png

PAGE = page_path()


class Files:
    """Artifacts in memory, refused on demand."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.broken = False

    def put(self, path: str, source: Any) -> None:
        if self.broken:
            raise RetryableError("the server is away")
        self.puts.append(path)
        self.files[path] = source if isinstance(source, bytes) else Path(source).read_bytes()

    def close(self) -> None:
        pass


def histogram(
    key: str = "weights", step: Optional[int] = 0, counts: Sequence[float] = (1, 5, 2)
) -> Histogram:
    edges = tuple(float(n) for n in range(len(counts) + 1))
    total = float(sum(counts))
    return Histogram(
        key, edges, tuple(counts), 0.0, edges[-1], total, total * 2, step, TIME + (step or 0)
    )


class Run:
    """A run in a store on disk, and its artifacts as they lie there."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        options, _ = MlflowBackend.resolve({"url": store}, {}, folder)
        self.store = store
        self.backend = MlflowBackend(options)
        self.info = RunInfo(
            "20231114-221320-0123abcd", "pictures", "one", TIME, {}, ("mlflow",), cwd=str(folder)
        )
        self.remote: RemoteRun = self.backend.open(self.info, None, folder / "work")

    def send(self, *records: Record) -> None:
        self.backend.write(Batch(records, lane="heavy"))

    def files(self) -> dict[str, bytes]:
        with tracking(self.store) as client:
            root = Path(client.get_run(self.remote.id).info.artifact_uri)
        found = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}

    def tags(self) -> dict[str, str]:
        with tracking(self.store) as client:
            return dict(client.get_run(self.remote.id).data.tags)


@pytest.fixture
def run(tmp_path: Path, fresh_database: Path) -> Run:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return Run(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


# -- the image grid ---------------------------------------------------------------------------

#: What the page takes: nothing else may lie in the folder, or no image is shown.
GRID = re.compile(
    r"images/[A-Za-z0-9_\-. ~]+\+step\+-?\d+\+timestamp\+\d+\+[0-9a-f-]{36}(\+compressed)?"
    r"\.(png|webp)"
)


def test_every_file_of_the_grid_has_the_form_that_the_page_reads(run: Run) -> None:
    awkward = ("a", "a/b", "a#b", "a%20b", "a+b", "ж", " x ", "..", "x" * 300, "a~b", "line\n")
    run.send(*(image(key, 3) for key in awkward), image("batch", 1, 3, index=2))
    run.send(SAMPLES["video"], SAMPLES["histogram"])
    run.backend.barrier()
    shown = [path for path in run.files() if path.startswith("images/")]
    assert all(GRID.fullmatch(path) for path in shown)
    full = [path for path in shown if "+compressed" not in path]
    assert len(full) == len(awkward) + 3
    for path in full:
        stem = path[: -len(".png")]
        assert path.endswith(".png")
        assert {f"{stem}+compressed.png", f"{stem}+compressed.webp"} & set(shown)
    assert run.tags()["mlflow.loggedImages"] == "true"


def test_mlflow_itself_finds_our_images_where_its_own_are(run: Run) -> None:
    run.send(image("ours/one", 7))
    with tracking(run.store) as client:
        client.log_image(
            run.remote.id, Pillow.new("L", (8, 8)), key="theirs/one", step=7, synchronous=True
        )
    theirs = next(path for path in run.files() if "theirs" in path and "compressed" not in path)
    ours = next(path for path in run.files() if "ours" in path and "compressed" not in path)
    if "+step+" in theirs:  # from 3.11 on
        shape = re.compile(r"(theirs|ours)|\d{13}|[0-9a-f-]{36}")
        assert shape.sub("?", ours) == shape.sub("?", theirs)
    assert GRID.fullmatch(ours)


def test_an_image_sent_again_replaces_itself(run: Run) -> None:
    run.send(image("a", 1, 5))
    before = run.files()
    run.send(image("a", 1, 5))
    assert run.files() == before
    run.send(image("a", 2, 5), image("a", 1, 5, index=1))
    assert len(run.files()) == 3 * len(before)


def test_members_of_a_batch_do_not_replace_a_key_that_looks_like_them(run: Run) -> None:
    run.send(image("a", 1, 5, index=1), image("a/1", 1, 6))
    full = [path for path in run.files() if "compressed" not in path]
    assert len(full) == 2


def test_thumbnails() -> None:
    with Pillow.open(io.BytesIO(thumbnail(png(9, 640, 480)) or b"")) as small:
        assert (small.format, small.size) == ("WEBP", (256, 192))
    with Pillow.open(io.BytesIO(thumbnail(png(9, 4, 8)) or b"")) as tiny:
        assert tiny.size == (128, 256)
    assert thumbnail(gif()) is None  # it moves
    assert thumbnail(b"no image at all") is None
    assert thumbnail(png()[:40]) is None


def test_the_grid_without_pillow(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    run.send(image("a", 1, 5))
    found = run.files()
    assert len(found) == 2
    assert set(found.values()) == {png(5)}
    assert all(path.endswith(".png") for path in found)


def test_a_film_moves_in_the_grid_and_lies_beside(run: Run) -> None:
    run.send(SAMPLES["video"])
    found = run.files()
    assert list(found.values()) == [gif()] * 3
    assert sum(path.startswith("tensorboard/video/") for path in found) == 1
    # What a browser cannot draw as an image is kept out of the grid.
    run.send(Media("video", "other", b"\x00\x00\x00 ftypmp42", "video/mp4", 1, TIME))
    added = set(run.files()) - set(found)
    assert [path.endswith(".mp4") for path in added] == [True]


@pytest.mark.parametrize(
    "path",
    [
        *("images/mine.png", "images", "Images/x", "tensorboard/text/notes.md", "tensorboard"),
        *("tensorboard/histograms.html", "tracelet/params/lr.txt", "tensorboard/Meshes/a.ply"),
        *("tensorboard/custom_scalars.json", "tensorboard/graphs", "tensorboard/pr_curves/a"),
    ],
)
def test_a_users_file_never_hides_the_grid(
    run: Run, path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "mine"
    source.write_bytes(b"mine")
    run.send(Artifact(path, str(source), 4, TIME), image("a", 1))
    found = run.files()
    assert found[f"files/{path}"] == b"mine"
    assert all(GRID.fullmatch(name) for name in found if name.casefold().startswith("images"))
    assert "stored as" in caplog.text


def test_a_users_file_beside_is_left_where_it_is(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.write_bytes(b"mine")
    for path in ("images2/x.png", "my/images/x.png", "tensorboard/events/x", "tracelet.txt"):
        run.send(Artifact(path, str(source), 4, TIME))
        assert run.files()[path] == b"mine"


def test_a_file_and_a_folder_of_one_name_both_arrive(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.write_bytes(b"mine")
    for path in ("model", "model/weights.pth", "a/b/c", "a/b", "a"):
        run.send(Artifact(path, str(source), 4, TIME))
    assert list(run.files().values()) == [b"mine"] * 5
    assert json.loads(run.tags()["tracelet.renamed.artifact"])


# -- drawing ----------------------------------------------------------------------------------


def test_a_png_is_what_was_drawn() -> None:
    palette = [(255, 255, 255), (1, 2, 3), (200, 0, 0)]
    picture = Pixels(40, 20, palette)
    picture.fill(5, 5, 10, 3, 2)
    picture.paint(0, 18, bytes([1, 2, 1]), 2)
    picture.write(20, 2, "-1.5e+07", 1, scale=1)
    with Pillow.open(io.BytesIO(picture.png())) as found:
        found.load()
        assert (found.format, found.size, found.mode) == ("PNG", (40, 20), "P")
        shown = found.convert("RGB")
        assert shown.getpixel((5, 5)) == (200, 0, 0)
        assert shown.getpixel((4, 5)) == (255, 255, 255)
        assert shown.getpixel((0, 19)) == (1, 2, 3)
        assert shown.getpixel((1, 18)) == (200, 0, 0)
        assert shown.getpixel((21, 4)) == (1, 2, 3)  # the minus sign


def dark(picture: bytes, x: float) -> list[bool]:
    """Return for a column of a heat map, from the top, where it is dark."""
    with Pillow.open(io.BytesIO(picture)) as found:
        shown = found.convert("L")
    left, right, top, bottom = 98, shown.width - 16, 8, 162
    column = left + round(x * (right - left))
    return [shown.getpixel((column, y)) < 100 for y in range(top, bottom)]


def test_a_heat_map_shows_where_the_values_are() -> None:
    rows = [
        row_of(histogram("w", step, [0] * step + [100] + [0] * (39 - step))) for step in range(40)
    ]
    picture = heat_map(rows)
    for x in (0.1, 0.5, 0.9):
        found = dark(picture, x)
        middle = 1 - sum(i for i, on in enumerate(found) if on) / sum(found) / len(found)
        assert abs(middle - x) < 0.05


def test_a_heat_map_is_a_square_with_the_map_where_mlflows_card_shows_it() -> None:
    counts = [1] + [0] * 9 + [100] * 10
    with Pillow.open(io.BytesIO(heat_map([row_of(histogram("w", 0, counts))] * 2))) as found:
        assert found.width == found.height
        upper = found.convert("RGB").crop((0, 0, found.width, found.height * 2 // 5))
        lower = found.convert("RGB").crop((0, found.height // 2, found.width, found.height))
        orange = (230, 85, 13)
        assert orange not in {colour for _, colour in upper.getcolors(9999)}
        # Below are the last step's bars, and only the upper half of its values has any.
        drawn = [x for x in range(lower.width) if lower.getpixel((x, 150)) == orange]
    assert drawn
    assert 98 + 180 < min(drawn) < max(drawn) < 468


@pytest.mark.parametrize(
    "found",
    [
        histogram(counts=[0, 0, 0]),
        histogram(counts=[7]),
        Histogram("w", (0.25, 0.25), (100.0,), 0.25, 0.25, 25.0, 6.25, 1, TIME),
        Histogram("w", (-math.inf, 0.0, math.inf), (3.0, 4.0), -1.0, 2.0, 1.0, 9.0, 1, TIME),
        Histogram("w", (-1e308, 0.0, 1e308), (3.0, 4.0), -1.0, 2.0, 1.0, 9.0, 1, TIME),
        Histogram("w", (0.0, 1.0), (math.nan,), math.nan, math.nan, math.nan, 0.0, None, TIME),
        Histogram("w", (1e-12, 1e-11, 1e20), (5.0, 1.0), 1e-12, 3.0, 1.0, 9.0, 2**40, TIME),
        Histogram("w", (), (), 0.0, 0.0, 0.0, 0.0, -1, TIME),
    ],
    ids=range(8),
)
def test_odd_histograms_are_drawn_all_the_same(found: Histogram) -> None:
    row = row_of(found)
    assert len(row.heights) == BARS
    assert row.high > row.low
    assert all(0 <= height <= 999 for height in row.heights)
    with Pillow.open(io.BytesIO(heat_map([row, row]))) as picture:
        picture.load()
    data = data_of(page({"w": Shown([row], 1)}))
    assert len(data["rows"][0]) == 1


def test_torchs_buckets_keep_their_shape() -> None:
    """They grow by a tenth; the bars are equal."""
    edges = [1.1**n * 1e-3 for n in range(120)]
    counts = [b - a for a, b in zip(edges, edges[1:])]  # an even distribution
    found = Histogram("w", edges, counts, edges[0], edges[-1], 1.0, 1.0, 1, TIME)
    heights = row_of(found).heights
    assert min(heights) > 0.9 * max(heights)


def test_what_is_drawn_is_bounded_and_spread_over_the_run() -> None:
    curve = Curve()
    for step in range(1000):
        curve.add(row_of(histogram("w", step)), 50)
        steps = [row.step for row in curve.rows]
        assert len(steps) <= 50
        assert steps[0] == 0
        assert steps[-1] == step
        gaps = [b - a for a, b in zip(steps[:-1], steps[1:-1])]
        assert set(gaps) <= {curve.stride}
    assert len(curve.rows) > 25
    again = Curve.from_json(json.loads(json.dumps(curve.as_json())))
    assert [row.step for row in again.rows] == [row.step for row in curve.rows]
    assert again.as_json() == curve.as_json()


# -- the page ---------------------------------------------------------------------------------


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_is_whole_by_itself() -> None:
    text = page({"w": Shown([row_of(histogram())], 1)})
    assert not re.search(r"(src|href)\s*=|https?://|@import|localStorage|@DATA@", text)
    assert text.count("<script") == 2


@pytest.mark.parametrize(
    "key", ["</script><script>alert(1)</script>", "<!--", "]]>", "'\"\\", "\u2028", "&lt;"]
)
def test_no_key_gets_out_of_the_data(key: str) -> None:
    text = page({key: Shown([row_of(histogram(key))], 1)})
    assert data_of(text)["keys"] == [key]
    assert text.count("<script") == 2
    assert text.count("</script") == 2
    assert "<!--" not in text


def test_the_page_is_small() -> None:
    rows = [row_of(histogram("w", step, range(1, 31))) for step in range(60)]
    assert len(page({f"k{n}": Shown(rows, 60) for n in range(4)})) < 90_000


def logged(files: Mapping[str, bytes]) -> list[Any]:
    """Return the exact histograms, in order, as somebody reads them who knows the format."""
    names = sorted(path for path in files if path.startswith("tensorboard/data/histograms"))
    return [
        json.loads(line) for name in names for line in gzip.decompress(files[name]).splitlines()
    ]


# -- histograms over a restart ----------------------------------------------------------------


def test_histograms_survive_a_restart(tmp_path: Path) -> None:
    files = Files()
    first = Histograms(tmp_path / "h", str)
    for step in range(10):
        first.add(histogram("w", step), files)
    first.upload(files, last=False)
    first.add(histogram("w", 10), files)  # not uploaded when the lights go out
    second = Histograms(tmp_path / "h", str)
    for step in range(8, 12):  # what is sent again, and something new
        second.add(histogram("w", step), files)
    second.upload(files, last=True)
    shown = data_of(files.files[PAGE].decode())
    assert [row[0] for row in shown["rows"][0]] == list(range(12))
    assert [line["step"] for line in logged(files.files)] == list(range(12))


def test_histograms_that_were_not_drawn_are_drawn_by_the_next(tmp_path: Path) -> None:
    now = [0.0]
    files = Files()
    first = Histograms(tmp_path / "h", str, clock=lambda: now[0])
    first.add(histogram("w", 0), files)
    first.upload(files, last=False)
    first._rest_until = 1e9  # it rests after drawing
    first.add(histogram("w", 1), files)
    assert first.upload(files, last=False) is False
    second = Histograms(tmp_path / "h", str)
    assert second.waiting
    second.upload(files, last=True)
    assert len(data_of(files.files[PAGE].decode())["rows"][0]) == 2
    assert not Histograms(tmp_path / "h", str).waiting


def test_buckets_go_on_in_further_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelet.backends.mlflow.parts._SMALLEST_BYTES", 1500)
    files = Files()
    steps = iter(range(200))
    for _ in range(10):  # a restart after every two uploads
        line = Histograms(tmp_path / "h", str)
        for _ in range(2):
            for step in [next(steps) for _ in range(5)]:
                line.add(histogram("w", step), files)
                line.add(histogram("w", step), files)
            line.upload(files, last=False)
    line.upload(files, last=True)
    names = sorted(path for path in files.files if "jsonl.gz" in path)
    assert len(names) > 5
    assert [found["step"] for found in logged(files.files)] == list(range(100))
    assert len(data_of(files.files[PAGE].decode())["rows"][0]) == 100
    # A full file is not sent again, and only one is kept here.
    assert files.puts.count(names[0]) < 4
    assert len(list((tmp_path / "h").glob("*.lines"))) <= 1


def test_a_failed_upload_is_made_up_for(tmp_path: Path) -> None:
    files, line = Files(), Histograms(tmp_path / "h", str)
    line.add(histogram("w", 0), files)
    files.broken = True
    with pytest.raises(RetryableError):
        line.upload(files, last=False)
    assert line.waiting
    files.broken = False
    line.upload(files, last=False)
    assert not line.waiting
    assert PAGE in files.files


def test_a_thousand_keys_stay_small(tmp_path: Path) -> None:
    line, files = Histograms(tmp_path / "h", str), Files()
    for step in range(30):
        for key in range(100):
            line.add(histogram(f"layer{key}", step), files)
    line.upload(files, last=True)
    assert len(files.files[PAGE]) < 100 * 30 * 400


# -- journals and texts -----------------------------------------------------------------------


def test_a_journal_mends_a_line_that_was_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 1000)
    assert journal.append(b"one")
    assert not journal.append(b"one")
    with open(tmp_path / "j" / "0001.jsonl", "ab") as file:
        file.write(b"tw")
    again = Journal(tmp_path / "j", 1000)
    assert again.append(b"two")
    assert not again.append(b"one")
    assert list(again.lines(1)) == [b"one", b"two"]
    assert again.dirty


def test_texts_of_one_key_are_one_page(tmp_path: Path) -> None:
    files, texts = Files(), Texts(tmp_path / "t", str)
    texts.add(Text("notes", "first", 0, TIME))
    texts.add(Text("notes", "second\n\nwith *Markdown*", 10, TIME + 1))
    texts.add(Text("notes", "second\n\nwith *Markdown*", 10, TIME + 1))
    texts.add(Text("other", "no step", None, TIME))
    texts.upload(files)
    assert files.files["tensorboard/text/notes.md"].decode() == (
        "# notes\n"
        "\n---\n\n### Step 0 · 2023-11-14 22:13:20 UTC\n\nfirst\n"
        "\n---\n\n### Step 10 · 2023-11-14 22:13:21 UTC\n\nsecond\n\nwith *Markdown*\n"
    )
    assert "### 2023-11-14" in files.files["tensorboard/text/other.md"].decode()
    files.puts.clear()
    texts.add(Text("other", "more", 1, TIME))
    texts.upload(files)
    assert files.puts == ["tensorboard/text/other.md"]


def test_texts_survive_a_restart_and_go_on_when_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelet.backends.mlflow.text._CHUNK_BYTES", 400)
    files = Files()
    for step in range(12):
        texts = Texts(tmp_path / "t", str)
        texts.add(Text("a", f"text {step} " + "x" * 60, step, TIME + step))
        texts.add(Text("a (2)", "another key", 0, TIME))
        assert texts.waiting
        texts.upload(files)
        assert not Texts(tmp_path / "t", str).waiting
    pages = sorted(path for path in files.files if re.search(r"/a( \(\d+\))?\.md", path))
    found = re.findall(r"text (\d+) x", "".join(files.files[path].decode() for path in pages))
    assert sorted(map(int, found)) == list(range(12))


@pytest.mark.parametrize("time", [-1.0, 1e18, 253402300800.0])
def test_a_text_of_an_odd_time(tmp_path: Path, time: float) -> None:
    files, texts = Files(), Texts(tmp_path / "t", str)
    texts.add(Text("notes", "odd", 0, time))
    texts.upload(files)
    assert b"odd" in files.files["tensorboard/text/notes.md"]


# -- tables -----------------------------------------------------------------------------------


def test_a_table_is_one_that_mlflow_loads(run: Run) -> None:
    pytest.importorskip("pandas")
    rows = [["cat", 10, 0.5], ["dog", 1, float("nan")]]
    run.send(Table("confusion/first", ["truth", "n", "share"], rows, 3, TIME))
    run.send(Table("confusion/first", ["truth", "n", "share"], [["cow", 0, 1.0]], 4, TIME))
    listed = json.loads(run.tags()["mlflow.loggedArtifacts"])
    assert [item["type"] for item in listed] == ["table", "table"]
    with tracking(run.store) as client:
        place = client.get_run(run.remote.id).info.experiment_id
        [table] = [
            client.load_table(place, item["path"], run_ids=[run.remote.id])
            for item in listed
            if "step_000003" in item["path"]
        ]
    assert list(table["truth"]) == ["cat", "dog"]
    assert list(table["n"]) == [10, 1]
    # A page reads it as JSON, which has no NaN.
    [path] = [path for path in run.files() if "step_000003" in path]
    assert json.loads(run.files()[path], parse_constant=lambda word: word)["data"][1][2] == "nan"


def test_the_list_of_tables_keeps_what_others_wrote_and_ends_in_time() -> None:
    before = json.dumps([{"path": "theirs.json", "type": "table"}])
    tag = tables_tag([f"ours/{n:040}.json" for n in range(500)], before)
    assert len(tag) <= 8000
    listed = [item["path"] for item in json.loads(tag)]
    assert listed[0] == "theirs.json"
    assert len(listed) > 50
    assert tables_tag(["theirs.json"], before) == before
    assert json.loads(tables_tag(["a"], "somebody's own text")) == [{"path": "a", "type": "table"}]


# -- the rest ---------------------------------------------------------------------------------


def test_every_other_kind_is_a_file_that_says_what_it_is(run: Run) -> None:
    kinds = ("pr_curve", "mesh", "graph", "custom_scalars", "raw")
    run.send(*(SAMPLES[kind] for kind in kinds))
    for kind in kinds:
        found = SAMPLES[kind]
        assert isinstance(found, Media)
        [path] = [path for path in run.files() if path.startswith(f"tensorboard/raw/{kind}/")]
        assert path.endswith(".pb")
        assert run.files()[path] == found.data


def test_a_user_file_that_is_gone_is_refused_by_place(run: Run, tmp_path: Path) -> None:
    gone = Artifact("x", str(tmp_path / "gone"), 3, TIME)
    with pytest.raises(RejectedError) as caught:
        run.send(image("a", 1), gone)
    assert caught.value.indexes == (1,)


def test_the_end_draws_what_rested(run: Run) -> None:
    run.send(histogram("w", 0))
    run.backend.barrier()
    for step in range(1, 4):
        run.send(histogram("w", step))
    run.backend.close(RunStatus.FINISHED)
    shown = data_of(run.files()[PAGE].decode())
    assert [row[0] for row in shown["rows"][0]] == [0, 1, 2, 3]


def test_rows_are_plain_numbers() -> None:
    row = row_of(histogram())
    assert Row.from_json(json.loads(json.dumps(row.as_json()))).heights == list(row.heights)
