"""Secrets planted where a training has them: in no store, no spool, no log, no line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.pipeline.programs import SOURCE, wait_for

from services.mlflow_server import Server
from tracelet.backends.mlflow import MlflowBackend
from tracelet.records import RunInfo
from tracelet.run.secrets import part

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PLANTED = {
    "variable": "planted-env-7f3a1c",
    "positional": "planted-pos-51be09",
    "option": "planted-opt-c0ffee",
    "pair": "planted-par-8d21aa",
    "address": "planted-adr-19e4d7",
    "issued": "ghp_planted0123456789abcdefghij",
    "remote": "planted-git-aa0172",
    "uri": "planted-uri-3b9f60",
    "api_key": "planted-key-e55d02",
    "header": "planted-hdr-0d4c88",
}

PROGRAM = """
import os, sys, time
import tracelet
run = tracelet.start_logging(
    "planted", "secrets", "mlflow",
    backend_url=os.environ["STORE"],
    config={"keep_runs": "all", "system_interval_s": 0.2},
)
run.log_metric("loss", 0.5, 1)
run.log_params({"num_memory_tokens": 64, "tokenizer": "bert", "key_size": 128, "monkey": 1})
run.log_text("notes", "a text of the user: https://host/x?page=2", 1)
if run.flush(float(os.environ["PATIENCE"])):
    time.sleep(0.5)
    print(run.remote())
print(repr(run), run.info, run.info.context, run.looks)
print(run.stop(timeout=60))
"""


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db?user=me&password=planted-query-1f9a",
        "postgresql://me:planted-query-1f9a@host/db",
        "postgresql://me:pl/anted-query-1f9a@host/db",
        "postgresql://me:planted#query-1f9a@host/db?sslmode=require",
    ],
)
def test_an_address_is_shown_and_written_down_without_its_password(
    url: str, tmp_path: Path
) -> None:
    options, sources = MlflowBackend.resolve({"url": url}, {}, tmp_path)
    parted = part(options, sources)
    shown = json.dumps(dict(parted.options)) + MlflowBackend(options).look(
        RunInfo("1", "p", "n", 0.0, {}, ["mlflow"], cwd=str(tmp_path))
    )
    assert "query-1f9a" not in shown
    assert "planted" not in shown
    assert "host/db" in shown
    assert "query-1f9a" in json.dumps(dict(parted.credentials)), "it can still log in"


@pytest.mark.parametrize("away", [False, True])
def test_planted_secrets_are_nowhere(away: bool, tmp_path: Path, mlflow_server: Server) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(PROGRAM)
    place = urlsplit(mlflow_server.url).netloc if not away else "127.0.0.1:9"
    remote = f"https://me:{PLANTED['remote']}@example.org/a/b.git"
    for arguments in (
        ["init", "-q"],
        ["add", "train.py"],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"],
        ["remote", "add", "origin", remote],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    environ = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "STORE": f"http://me:{PLANTED['uri']}@{place}",
        "WANDB_API_KEY": PLANTED["variable"],
        "DB_PASSWORD": PLANTED["positional"],
        "SLURM_JOB_NAME": f"job --token={PLANTED['api_key']}",
        "RANK": "0",
        "PATIENCE": "2" if away else "60",
        "TRACELET_SIDECAR_LIFETIME_S": "3",
    }
    command = [
        *(sys.executable, "train.py", "--api-key", PLANTED["option"]),
        *(f"logger.token={PLANTED['pair']}", PLANTED["positional"], PLANTED["issued"]),
        *("--data", f"s3://me:{PLANTED['address']}@bucket/x", "--num-memory-tokens", "64"),
        *("--header", f"Authorization: Bearer {PLANTED['header']}"),
    ]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    spool = folder / ".tracelet"
    assert [secret for secret in PLANTED.values() if secret in said] == []
    # What is not secret is all there.
    assert "--num-memory-tokens" in said
    wait_for(lambda: any(spool.glob("*/ship.log")) and any(spool.glob("*/ship.json")))
    state = Path(os.environ["XDG_STATE_HOME"])
    places = [spool, state, mlflow_server.folder, *tmp_path.glob("*.db*")]
    found = [
        (name, path)
        for root in places
        for path in root.rglob("*")
        if path.is_file()
        for name, secret in PLANTED.items()
        if secret.encode() in path.read_bytes()
    ]
    assert found == []
    if not away:
        stored = (mlflow_server.folder / "mlflow.db").read_bytes()
        for told in (b"example.org/a/b.git", b"num_memory_tokens", b"tokenizer", b"[secret]"):
            assert told in stored
        texts = mlflow_server.folder.glob("artifacts/**/tracelet/context.json")
        assert any('"SLURM_JOB_NAME": "job --token=[secret]"' in each.read_text() for each in texts)
