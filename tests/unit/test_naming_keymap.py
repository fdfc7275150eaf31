"""What a backend allows as a name: one-to-one, and always the same."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelet.naming import KeyMap, mapped, posix_form

#: MLflow's rule for keys.
ALLOWED = r"[/\w.\- :]"


def mlflow(**more: Any) -> KeyMap:
    return KeyMap(allowed=ALLOWED, max_length=250, rules=(posix_form,), **more)


@pytest.mark.parametrize("raw", ["loss", "train/loss", "a b.c-d:e_f", "Ünï/日本", "x" * 250])
def test_what_is_allowed_stays(raw: str) -> None:
    assert mlflow().map(raw) == raw


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("loss (train)", "loss _train_"),
        ("acc@5 [%]", "acc_5 ___"),
        ("", "_"),
        ("/abs", "abs"),
        ("x/", "x"),
        ("a//b", "a/b"),
        ("../x", "__/x"),
        ("a/./b", "a/_/b"),
        ("line\n", "line_"),
        ("👍", "_"),
        ("\ud800", "_"),
        ("/", "_"),
    ],
)
def test_what_is_not_allowed_is_replaced(raw: str, name: str) -> None:
    assert mlflow().map(raw) == name


def test_a_hash_only_where_two_would_meet() -> None:
    names = mlflow()

    assert names.map("a(b)") == "a_b_"
    second = names.map("a[b]")
    assert re.fullmatch(r"a_b_-[0-9a-f]{6}", second)
    assert names.map("a_b_").startswith("a_b_-")
    assert names.map("a(b)") == "a_b_"
    assert names.originals() == {"a_b_": "a(b)", second: "a[b]", names.map("a_b_"): "a_b_"}


def test_a_hash_where_it_was_cut() -> None:
    names = mlflow()
    first, second = names.map("x" * 300), names.map("x" * 301)

    assert first != second
    assert [len(first), len(second)] == [250, 250]
    assert mlflow().map("x" * 301) == second  # whoever came first


def test_hashes_follow_a_tilde_where_one_is_allowed() -> None:
    names = KeyMap(allowed=r"[\w~-]", max_length=20)
    names.map("a b")

    assert re.fullmatch(r"a_b~[0-9a-f]{6}", names.map("a.b"))


def test_names_that_differ_only_in_case() -> None:
    names = mlflow(case_blind=True)

    assert names.map("loss") == "loss"
    assert names.map("Loss").startswith("Loss-")
    assert names.map("é") == "é"
    assert names.map("É").startswith("É-")
    assert mlflow().map("Loss") == "Loss"


def test_names_that_are_folders_of_others() -> None:
    names = mlflow(tree=True)

    assert names.map("train/loss") == "train/loss"
    file = names.map("train")
    assert re.fullmatch(r"train-[0-9a-f]{6}", file)
    assert names.map("train/acc") == "train/acc"
    assert names.map("a") == "a"
    assert re.fullmatch(r"a-[0-9a-f]{6}/b", names.map("a/b"))
    assert names.map("a/c").split("/")[0] == names.map("a/b").split("/")[0]  # one folder still


def test_names_that_are_files() -> None:
    names = mlflow(tree=True, max_bytes=200)

    assert len(names.map("日" * 100).encode()) <= 200
    assert names.map("日" * 100) != names.map("日" * 101)


def test_names_of_a_continued_run() -> None:
    """Another process goes on with the same remote run, and meets the keys in another order."""
    first, second = mlflow(), mlflow()
    first.map("a(b)")
    second.restore([(raw, name) for name, raw in first.originals().items()])

    assert second.map("a[b]") != "a_b_"
    assert second.map("a(b)") == "a_b_"


@pytest.mark.parametrize("entry", [["a"], ["a", 1], [None, "a"]])
def test_pairs_of_somebody_else(entry: Any) -> None:
    with pytest.raises(ValueError, match="pair"):
        mlflow().restore([entry])


def test_limits_that_no_name_can_keep() -> None:
    with pytest.raises(ValueError, match="room"):
        KeyMap(allowed=ALLOWED, max_length=8)
    with pytest.raises(ValueError, match="room"):
        KeyMap(allowed=ALLOWED, max_length=100, max_bytes=8)
    with pytest.raises(ValueError, match="replacement"):
        KeyMap(allowed=ALLOWED, max_length=100, replacement="~")


def test_the_function_alone() -> None:
    assert mapped("a(b)", allowed=ALLOWED, max_length=250) == "a_b_"
    assert mapped("a(b)", allowed=ALLOWED, max_length=250, taken={"a_b_": "a(b)"}) == "a_b_"
    other = mapped("a[b]", allowed=ALLOWED, max_length=250, taken={"a_b_": "a(b)"})
    assert re.fullmatch(r"a_b_-[0-9a-f]{6}", other)
    assert other == mapped("a[b]", allowed=ALLOWED, max_length=250, taken={"a_b_": "a(b)"}.get)


RAW = st.text(alphabet="aAbB/._ (-)~%é\u0301\n", max_size=24) | st.text(max_size=24)
OPTIONS = st.fixed_dictionaries(
    {
        "max_length": st.integers(16, 30),
        "case_blind": st.booleans(),
        "tree": st.booleans(),
        "max_bytes": st.none() | st.integers(16, 30),
        "rules": st.sampled_from([(), (posix_form,)]),
    }
)


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check(names: KeyMap, options: dict[str, Any], raws: list[str]) -> None:
    owners: dict[str, str] = {}
    for raw in raws:
        name = names.map(raw)
        assert re.fullmatch(f"(?:{ALLOWED})+", name)
        assert len(name) <= options["max_length"]
        limit: Optional[int] = options["max_bytes"]
        assert limit is None or len(name.encode()) <= limit
        if options["rules"]:
            assert posix_form(name) == name
        spelling = folded(name) if options["case_blind"] else name
        assert owners.setdefault(spelling, raw) == raw
    if options["tree"]:
        for spelling in owners:
            assert not any(other.startswith(spelling + "/") for other in owners)


@settings(max_examples=500, deadline=None)
@given(OPTIONS, st.lists(RAW, max_size=25), st.integers(0, 25))
def test_names_are_legal_and_one_to_one(options: Any, raws: list[str], cut: int) -> None:
    names, again = (KeyMap(allowed=ALLOWED, **options) for _ in range(2))
    check(names, options, raws)

    assert [names.map(raw) for raw in raws] == [again.map(raw) for raw in raws]
    for name, raw in names.originals().items():
        assert names.map(raw) == name != raw

    first, second, third = (KeyMap(allowed=ALLOWED, **options) for _ in range(3))
    for raw in raws[:cut]:
        first.map(raw)
    journal = json.loads(json.dumps(first.journal()))
    assert first.journal() == []
    second.restore(journal)
    third.restore(json.loads(json.dumps(first.dump())))
    for later in (first, second, third):
        assert [later.map(raw) for raw in raws] == [names.map(raw) for raw in raws]


@settings(max_examples=300, deadline=None)
@given(OPTIONS, RAW)
def test_a_name_is_its_own_name(options: Any, raw: str) -> None:
    name = KeyMap(allowed=ALLOWED, **options).map(raw)

    assert KeyMap(allowed=ALLOWED, **options).map(name) == name


@settings(max_examples=200, deadline=None)
@given(OPTIONS, st.lists(RAW, max_size=20, unique=True))
def test_everything_that_could_be_a_hash_is_taken(options: Any, raws: list[str]) -> None:
    """Names of one map, fed to another one as raw keys among the old ones."""
    names = KeyMap(allowed=ALLOWED, **options)
    made = [names.map(raw) for raw in raws]
    other = KeyMap(allowed=ALLOWED, **options)

    check(other, options, [*made, *raws, *reversed(made)])
