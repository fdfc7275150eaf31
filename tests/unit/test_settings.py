"""Where settings come from, which source wins, and what a mistake says."""

from __future__ import annotations

import datetime as dt
import traceback
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from pydantic import SecretStr

import tracelet
from tracelet.backends.base import BackendOptions
from tracelet.settings import TraceletSettings, load, sentence

SECRET = "sk-planted-0123456789"


def refused(arguments: Optional[dict[str, Any]] = None, config: Any = None) -> str:
    """Return the sentence that these settings are refused with."""
    with pytest.raises(tracelet.SettingsError) as caught:
        load(arguments or {}, config)
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- precedence -----------------------------------------------------------------------------


def test_without_anything_there_are_defaults() -> None:
    loaded = load({})
    assert loaded.settings.backend == ["mlflow"]
    assert (loaded.project, loaded.name) == (None, None)
    assert loaded.sections == {"mlflow": {}}
    assert loaded.resume == {}


def test_arguments_beat_config_which_beats_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_PROJECT", "from a variable")
    assert load({}).project == "from a variable"
    assert load({}, {"project": "from config"}).project == "from config"
    assert load({"project": "argument"}, {"project": "from config"}).project == "argument"


def test_none_and_the_empty_text_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_PROJECT", "from a variable")
    assert load({"project": None}, {"project": ""}).project == "from a variable"
    monkeypatch.setenv("TRACELET_PROJECT", "")
    assert load({}).project is None


@pytest.mark.parametrize(
    ("strong", "weak"), [("experiment_name", "project"), ("run_name", "exp_name")]
)
def test_the_stronger_name_wins(strong: str, weak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(loaded: Any) -> Optional[str]:
        return loaded.project if weak == "project" else loaded.name

    assert found(load({weak: "a"}, {strong: "b"})) == "b"
    assert found(load({}, {weak: "a", strong: "b"})) == "b"
    # But an argument, or config, is stronger than any variable.
    monkeypatch.setenv(f"TRACELET_{strong.upper()}", "c")
    assert found(load({})) == "c"
    assert found(load({weak: "a"})) == "a"
    assert found(load({}, {weak: "a"})) == "a"


# -- the form of a value ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "backends"),
    [
        ("jsonl", ["jsonl"]),
        ("jsonl,memory", ["jsonl", "memory"]),
        (["jsonl", "memory"], ["jsonl", "memory"]),
        (("jsonl",), ["jsonl"]),
    ],
)
def test_one_backend_or_several(given: Any, backends: list[str]) -> None:
    assert load({"backend": given}).settings.backend == backends


@pytest.mark.parametrize("text", ["jsonl,memory", '["jsonl", "memory"]', " jsonl , memory "])
def test_a_list_in_a_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_BACKEND", text)
    assert load({}).settings.backend == ["jsonl", "memory"]


def test_a_tag_may_be_any_scalar() -> None:
    tags = {
        "text": "v1.0",
        "int": 7,
        "float": 0.1,
        "yes": True,
        "none": None,
        "numpy": np.float32(0.5),
        "array": np.array(3),
        "path": Path("a") / "b",
        "day": dt.date(2026, 1, 2),
    }
    assert load({}, {"tags": tags}).settings.tags == {
        "text": "v1.0",
        "int": "7",
        "float": "0.1",
        "yes": "True",
        "none": "None",
        "numpy": "0.5",
        "array": "3",
        "path": str(Path("a") / "b"),
        "day": "2026-01-02",
    }


@pytest.mark.parametrize(
    "text", ["team=ml,seed=7", '{"team": "ml", "seed": 7}', "team = ml, seed=7"]
)
def test_tags_in_a_variable_are_pairs_or_json(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_TAGS", text)
    assert load({}).settings.tags == {"team": "ml", "seed": "7"}
    # Both sources are tags of the run; config decides where they meet.
    assert load({}, {"tags": {"seed": 8}}).settings.tags == {"team": "ml", "seed": "8"}


@pytest.mark.parametrize(("given", "kept"), [(0, 0), (3, 3), ("3", 3), ("all", "all")])
def test_how_many_runs_are_kept(given: Any, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({}, {"keep_runs": given}).settings.keep_runs == kept
    monkeypatch.setenv("TRACELET_KEEP_RUNS", str(given))
    assert load({}).settings.keep_runs == kept


@pytest.mark.parametrize(("given", "bytes_"), [(0, 0), ("7000", 7000), (1 << 40, 1 << 40)])
@pytest.mark.parametrize("setting", ["max_run_bytes", "max_spool_bytes", "min_free_bytes"])
def test_how_much_room_runs_may_take(
    setting: str, given: Any, bytes_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(load({}, {setting: given}).settings, setting) == bytes_
    monkeypatch.setenv(f"TRACELET_{setting.upper()}", str(given))
    assert getattr(load({}).settings, setting) == bytes_


def test_every_setting_can_be_given_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "backend": "jsonl",
        "project": "p",
        "exp_name": "n",
        "experiment_name": "e",
        "run_name": "r",
        "tags": "a=1",
        "backend_url": "folder",
        "api_key": "key",
        "spool_dir": "spool",
        "shipper": "thread",
        "mode": "offline",
        "run_id": "id",
        "resume": "never",
        "ranks": "all",
        "keep_runs": "2",
        "max_run_bytes": "1000",
        "max_spool_bytes": "2000",
        "min_free_bytes": "3000",
        "keep_tensorboard": "false",
        "snapshot": "no",
        "durability": "power",
        "collect": "git,system",
        "system_interval_s": "2.5",
        "strict": "1",
        "silent": "true",
        "handle_sigterm": "yes",
        "disable": "tensorboardx",
    }
    assert sorted(values) == sorted(TraceletSettings.names())
    for name, value in values.items():
        monkeypatch.setenv(f"TRACELET_{name.upper()}", value)
    defaults = TraceletSettings.model_fields
    settings = load({}).settings
    for name in values:
        assert getattr(settings, name) != defaults[name].get_default(call_default_factory=True), (
            name
        )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("false", []), (False, []), ("0", []), (" off ", []), ([], []),
        ("git", ["git"]), ("git, system", ["git", "system"]), (("packages",), ["packages"]),
        (True, None), ("true", None), ("ON", None),
    ],
)  # fmt: skip
def test_what_is_collected(given: Any, wanted: Optional[list[str]]) -> None:
    everything = load({}).settings.collect
    assert set(everything) > {"git", "command", "packages", "hardware", "environment"}
    assert load({}, {"collect": given}).settings.collect == (
        everything if wanted is None else wanted
    )


def test_what_cannot_be_collected_is_an_error() -> None:
    assert "Did you mean 'hardware'" in refused({}, {"collect": ["hardwear"]})
    assert "collect" in refused({}, {"collect": 7})
    assert "system_interval_s" in refused({}, {"system_interval_s": 0})


# -- one backend's own options ----------------------------------------------------------------


def test_a_backends_options_from_config_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_JSONL", '{"path": "a", "parent": "b"}')
    monkeypatch.setenv("TRACELET_JSONL__PARENT", "c")
    loaded = load({"backend": "jsonl"})
    assert loaded.sections == {"jsonl": {"path": "a", "parent": "c"}}
    assert loaded.sources["jsonl"]["parent"] == "env:TRACELET_JSONL__PARENT"
    loaded = load({"backend": "jsonl"}, {"jsonl": {"path": "d"}})
    assert loaded.sections == {"jsonl": {"path": "d", "parent": "c"}}
    assert "path" not in loaded.sources["jsonl"]


def test_options_of_a_backend_that_is_not_in_use_do_no_harm() -> None:
    loaded = load({"backend": "jsonl"}, {"mlflow": {"url": "x"}, "jsonl": {"path": "y"}})
    assert loaded.sections == {"jsonl": {"path": "y"}}


def test_url_and_key_go_to_the_one_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_API_KEY", SECRET)
    loaded = load({"backend_url": "http://h"})
    assert loaded.sections == {"mlflow": {"url": "http://h", "api_key": SECRET}}
    assert loaded.sources == {"mlflow": {"api_key": "env:TRACELET_API_KEY"}}


def test_the_url_of_a_variable_gives_way_to_the_backends_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACELET_BACKEND_URL", "http://variable")
    assert load({}, {"mlflow": {"url": "http://own"}}).sections["mlflow"]["url"] == "http://own"
    assert load({"backend_url": "http://a"}, {"mlflow": {"url": "http://own"}}).sections == {
        "mlflow": {"url": "http://a"}
    }


@pytest.mark.parametrize("key", ["backend_url", "api_key"])
def test_url_and_key_need_one_backend(key: str) -> None:
    assert "several" in refused({"backend": ["mlflow", "jsonl"], key: "x"})


# -- the run to continue ----------------------------------------------------------------------


def test_a_run_id_belongs_to_the_one_backend() -> None:
    assert load({}, {"run_id": "abc"}).resume == {"mlflow": "abc"}
    two = {"backend": ["mlflow", "jsonl"]}
    assert load(two, {"run_id": {"jsonl": "abc"}}).resume == {"jsonl": "abc"}
    assert "several" in refused(two, {"run_id": "abc"})
    assert "jsonl" in refused({}, {"run_id": {"jsonl": "abc"}})


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"projct": "a"}, "Unknown setting 'projct'. Did you mean 'project'?"),
        ({"keep_run": 1}, "Did you mean 'keep_runs'?"),
        ({"mlflw": {}}, "Did you mean 'mlflow'?"),
        ({"zzz": 1}, "Known: aim, api_key,"),
        ({5: 1}, "Unknown setting 5"),
        ({"project": 5}, "'project' must be a text, not 5"),
        ({"shipper": "proces"}, "'shipper' must be 'process' or 'thread', not 'proces'"),
        ({"mode": True}, "'mode' must be"),
        ({"strict": "maybe"}, "'strict' must be true or false, not 'maybe'"),
        ({"keep_runs": "al"}, "'keep_runs' must be a whole number or 'all', not 'al'"),
        ({"keep_runs": -1}, "from 0 up"),
        ({"keep_runs": True}, "from 0 up"),
        ({"max_run_bytes": -1}, "from 0 up"),
        ({"max_run_bytes": "2 GB"}, "'max_run_bytes' must be a whole number, not '2 GB'"),
        ({"max_spool_bytes": "much"}, "must be 'auto' or a whole number, not 'much'"),
        ({"min_free_bytes": True}, "from 0 up"),
        ({"resume": "always"}, "'resume' must be 'auto' or 'never'"),
        ({"run_id": 5}, "'run_id' must be a text or a dictionary of texts, not 5"),
        ({"run_id": " "}, "not empty"),
        ({"run_id": "a", "resume": "auto"}, "resume='auto'"),
        ({"spool_dir": 5}, "'spool_dir' must be a folder's path, not 5"),
        ({"tags": "a=1"}, "'tags' must be a dictionary"),
        ({"tags": {"a": [1]}}, "the tag 'a'"),
        ({"tags": {"a": np.zeros(2)}}, "the tag 'a'"),
        ({"tags": {3: 1}}, "the name of a tag"),
        ({"backend": []}, "'backend' is empty"),
        ({"backend": {}}, "'backend' must be a name or a list of names"),
        ({"backend": ["jsonl", "jsonl"]}, "named twice"),
        ({"disable": "tensorbord"}, "Did you mean 'tensorboard'?"),
        ({"mlflow": 3}, "dictionary of that backend's options"),
        ({"backend_url": "a", "mlflow": {"url": "b"}}, "they differ"),
        ("project=a", "config must be a dictionary"),
    ],
)
def test_a_mistake_is_one_sentence(config: Any, said: str) -> None:
    assert said in refused({}, config)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TRACELET_PROJCT", "a", "Did you mean 'TRACELET_PROJECT'?"),
        ("TRACELET_MLFLW__URL", "a", "TRACELET_MLFLW__URL is no setting"),
        ("TRACELET_TAGS", '{"a": 1', "'tags' must be a dictionary"),
        ("TRACELET_TAGS", "a", "'tags' must be a dictionary"),
        ("TRACELET_MLFLOW", "a", "TRACELET_MLFLOW must hold a JSON object"),
        ("TRACELET_KEEP_RUNS", "many", "'keep_runs'"),
    ],
)
def test_a_mistake_in_a_variable(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert said in refused()


class Options(BackendOptions):
    token: Optional[SecretStr] = None
    size: int = 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"siz": 1}, "Unknown setting 'siz' for tracker. Did you mean 'size'?"),
        ({"tokn": SECRET}, "Unknown setting 'tokn' for tracker. Did you mean 'token'?"),
        ({"size": "big"}, "'tracker.size' must be a whole number, not 'big'"),
        ({"token": [SECRET]}, "'tracker.token' must be a text."),
        ({"size": f"http://user:{SECRET}@host"}, "[secret]@host"),
    ],
)
def test_a_mistake_in_a_backends_options_never_shows_a_secret(
    options: dict[str, Any], said: str
) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        Options(**options)
    text = sentence(caught.value, Options, where="tracker")
    assert said in text
    assert SECRET not in text


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": [SECRET]},
        {"api_key": 12345678},
        {"mlflow": {"api_kye": SECRET}},
        {"mlflow": {"password": [SECRET]}},
        {"api_ky": SECRET},
        {"backend_url": [f"http://u:{SECRET}@h"]},
    ],
)
def test_no_traceback_of_a_mistake_shows_a_secret(config: dict[str, Any]) -> None:
    with pytest.raises(tracelet.SettingsError) as caught:
        tracelet.start_logging(config={"silent": True, **config})
    shown = "".join(
        traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__)
    )
    assert SECRET not in shown
    assert "12345678" not in shown
    assert caught.value.__context__ is None


def test_settings_do_not_show_their_secrets() -> None:
    loaded = load({"api_key": SECRET, "backend_url": f"http://u:{SECRET}@h"})
    assert SECRET not in repr(loaded)
    assert SECRET not in repr(loaded.settings)
