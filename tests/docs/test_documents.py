"""Documents that cannot lag behind: code runs, names exist, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple

import click
import pytest

import tracelet
from tracelet import registry
from tracelet.cli.commands import tracelet as command_line

REPOSITORY = Path(__file__).parents[2]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("**/*.md"))]

FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<default>[^|]+) \|", re.MULTILINE)


class Block(NamedTuple):
    """A piece of code in a page, with the line its first line stands on."""

    kind: str
    code: str
    line: int


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _blocks(page: Path) -> Iterator[Block]:
    text = _text(page)
    for match in FENCE.finditer(text):
        yield Block(match["kind"], match["code"], text.count("\n", 0, match.start("code")) + 1)


def _name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


WITH_CODE = [page for page in PAGES if any(block.kind == "python" for block in _blocks(page))]


#: Those whose SDK is not in every environment of the tests.
TRACKERS = ("aim", "wandb")


def _needs(tracker: str) -> None:
    if tracker == "aim" and sys.version_info >= (3, 13):
        pytest.skip("platform: Aim has no build for this Python")
    pytest.importorskip(tracker)


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """From top to bottom, as somebody who reads the page would type it in."""
    source = ""
    for block in _blocks(page):
        if block.kind == "python":
            # A traceback then names the line of the page.
            source += "\n" * (block.line - 1 - source.count("\n")) + block.code
    for tracker in TRACKERS:
        if f'backend="{tracker}"' in source:
            _needs(tracker)
    if re.search(r"\btorch\b", source):
        pytest.importorskip("torch")
    script = tmp_path / "page.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{_name(page)}: {done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in LINK.findall(FENCE.sub("", _text(page))):
        if re.match(r"^(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in _anchors(other)):
            lost.append(target)
    assert lost == []


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", _text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def _documented(heading: str) -> Mapping[str, str]:
    """Return name and default of every row below a heading of the page of settings."""
    text = _text(REPOSITORY / "docs" / "settings.md")
    level = heading.partition(" ")[0]
    begin = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{2,{len(level)}}} ", text[begin:], re.MULTILINE)
    return dict(ROW.findall(text[begin:][: end.start() if end else None]))


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    text = _text(REPOSITORY / "docs" / "settings.md")
    rows = dict(ROW.findall(text[: text.index("\n## For one backend\n")]))
    assert sorted(rows) == sorted(tracelet.TraceletSettings.model_fields)


def test_the_documented_defaults_are_the_defaults() -> None:
    text = _text(REPOSITORY / "docs" / "settings.md")
    rows = dict(ROW.findall(text[: text.index("\n## For one backend\n")]))
    settings = tracelet.TraceletSettings()
    wrong = {
        name: (said, getattr(settings, name))
        for name, said in rows.items()
        if name != "spool_dir" and not _agrees(said, getattr(settings, name))
    }
    assert wrong == {}


def _agrees(said: str, value: Any) -> bool:
    if value is None:
        return not said.startswith("`")
    if isinstance(value, list) and value:
        value = ", ".join(value)
    return said == f"`{value}`"


BACKENDS = ["aim", "clearml", "jsonl", "memory", "mlflow", "parquet", "tensorboard", "wandb"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_option_of_a_backend_is_documented(backend: str) -> None:
    if backend in TRACKERS:
        _needs(backend)
    options = registry.backend_class(backend).Options
    assert sorted(_documented(f"### `{backend}`")) == sorted(options.model_fields)


def _commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            for inner, leaf in _commands(command):
                yield f"{name} {inner}", leaf
        else:
            yield name, command


def test_every_command_and_option_is_documented() -> None:
    text = _text(REPOSITORY / "docs" / "commands.md")
    missing = []
    for name, command in _commands(command_line):
        if f"## `tracelet {name}" not in text:
            missing.append(name)
        for parameter in command.params:
            words = [word for word in parameter.opts if word.startswith("--")]
            missing += [f"{name} {word}" for word in words if f"`{word}" not in text]
    assert missing == []
    known = {word for _, each in _commands(command_line) for p in each.params for word in p.opts}
    assert set(re.findall(r"`(--[a-z-]+)", text)) - known - {"--version", "--help"} == set()


def test_every_documented_command_exists() -> None:
    known = {name for name, _ in _commands(command_line)}
    said = set()
    for page in PAGES:
        said |= set(re.findall(r"`tracelet ([a-z]+)[ `]", _text(page)))
        said |= {
            word
            for block in _blocks(page)
            if block.kind == "bash"
            for word in re.findall(r"^tracelet ([a-z]+)", block.code, re.MULTILINE)
        }
    assert said - known == set()


def test_every_target_that_a_page_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", _text(REPOSITORY / "Makefile"), re.MULTILINE))
    said = {
        word
        for page in PAGES
        for word in re.findall(r"(?:`|^)make ([a-z]+)", _text(page), re.MULTILINE)
    }
    assert said - targets == set()


def test_the_source_names_only_pages_that_exist() -> None:
    named = {
        word
        for path in (REPOSITORY / "src").rglob("*.py")
        for word in re.findall(r"\bdocs/[\w\-/]+\.md\b", _text(path))
    }
    assert {page for page in named if not (REPOSITORY / page).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert "TBD" not in _text(page)
