"""Troubleshooting has every message that the source has, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator, Optional

import tracelet

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SOURCE = Path(tracelet.__file__).parent

#: Where diagnoses are made.
DIAGNOSES = (
    *sorted((SOURCE / "backends" / "mlflow" / "diagnosis").glob("*.py")),
    *(SOURCE / "backends" / "mlflow" / name for name in ("answers.py", "http.py", "preflight.py")),
    *sorted((SOURCE / "backends" / "clearml").glob("*.py")),
    *(SOURCE / "backends" / "aim" / name for name in ("address.py", "backend.py", "preflight.py")),
    *(SOURCE / "cli" / name for name in ("installed.py", "spool_folder.py")),
    SOURCE / "backends" / "jsonl" / "backend.py",
    SOURCE / "backends" / "wandb" / "preflight.py",
    SOURCE / "run" / "examination.py",
)
REFUSALS = {"ConfigError", "MissingPackageError"}

ROW = re.compile(r"^\| `(?P<says>[^`]+)` \| (?P<why>[^|]+) \| (?P<remedy>[^|]+) \|$", re.MULTILINE)
ROWS = [(match["says"], match["remedy"].strip()) for match in ROW.finditer(PAGE)]
#: Remedies in the writer's own words instead of the program's.
IN_WORDS = re.compile(r"^(nothing|mend what|install the package, or|look with)|`tracelet ")


def rendered(node: Optional[ast.AST]) -> Optional[str]:
    """Return a text as the page has it, with … for what is filled in; None for no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(rendered(part) or "…" for part in node.values)
    return None


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def texts() -> set[str]:
    """Return every text of the whole package."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = rendered(node)
            if text is not None:
                found.add(text)
    return found


def messages() -> set[tuple[str, Optional[str]]]:
    """Return what diagnoses say, and their remedies where these are written beside them."""
    found = set()
    for path in DIAGNOSES:
        for name, call in calls(path):
            if name in REFUSALS and len(call.args) == 2:
                found.add((rendered(call.args[0]), rendered(call.args[1])))
            elif name == "Finding" and rendered(call.args[0]) in ("note", "problem"):
                remedy = rendered(call.args[3]) if len(call.args) > 3 else None
                found.add((rendered(call.args[2]), remedy))
    return {(says, remedy) for says, remedy in found if says is not None}


def test_every_message_is_on_the_page() -> None:
    assert len(messages()) > 40
    said = {says for says, _ in ROWS}
    without_words = {"only MLflow's own client can ask this service"}
    assert {says for says, _ in messages()} - said - without_words == set()


def test_every_remedy_is_beside_its_message() -> None:
    missing = [
        (says, remedy)
        for says, remedy in messages()
        if remedy is not None and (says, remedy) not in ROWS and says in {row[0] for row in ROWS}
    ]
    assert missing == []


def test_the_page_says_nothing_that_the_program_does_not() -> None:
    assert len(ROWS) == PAGE.count("\n| `")
    known = texts()
    assert [says for says, _ in ROWS if says not in known] == []
    assert [
        remedy for _, remedy in ROWS if remedy not in known and not IN_WORDS.search(remedy)
    ] == []
