"""What is taken for a secret, and what is not."""

from __future__ import annotations

import pytest

from tracelet._redaction import (
    HIDDEN,
    is_secret,
    known_values,
    looks_secret,
    redacted_command,
    redacted_text,
    without_credentials,
)

SECRET = "hunter2"


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apiKey", "API-KEY", "apikey", "APIKey", "OPENAI_API_KEY", "wandb.api_key",
        "token", "HF_TOKEN", "hf-token", "auth_token", "accessToken", "user_token",
        "password", "db_password", "PGPASSWORD2", "passwd", "passphrase", "DB_PASS",
        "secret", "client_secret", "AWS_SECRET_ACCESS_KEY", "secret_key", "private_key",
        "logger.wandb.api_key", "credentials", "authorization", "auth", "account_key", "pw",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name, SECRET)
    assert redacted_command([f"--{name}={SECRET}"]) == [f"--{name}={HIDDEN}"]
    assert redacted_command([f"--{name}", SECRET, "rest"])[1:] == [HIDDEN, "rest"]
    assert SECRET not in redacted_text(f"here {name}={SECRET}, and {name}: {SECRET}")
    assert SECRET not in redacted_text(f'{{"{name}": "{SECRET}", "lr": 0.1}}')


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_memory_tokens", "64"), ("max-tokens", "512"), ("tokenizer", "bert-base"),
        ("key_size", "128"), ("monkey", "1"), ("pad_token", "endoftext"), ("token", "<pad>"),
        ("mask-token", "[MASK]"), ("tokens_per_batch", "4096"), ("token_dim", "64"),
        ("n_token", "7"), ("token", "3"), ("use_auth_token", "true"), ("key", "loss"),
        ("sort_key", "val_loss"), ("num_keys", "8"), ("keyboard", "us"), ("turkey", "roast"),
        ("compass", "north"), ("bypass", "layer3"), ("forward_pass", "fast"), ("pass", "2"),
        ("password_file", "/run/secrets/pw"), ("password-length", "12"), ("secretary", "bob"),
        ("secret_name", "prod"), ("credentials", "/etc/gcp.json"), ("auth", "kerberos"),
        ("author", "me"), ("authority", "x"), ("image_token", "img"), ("spin_memory", "yes"),
        ("signature", "v4"), ("hotkey", "ctrl"), ("password", ""), ("token", "$HF_TOKEN"),
        ("access_token_count", "5"), ("passage", "text"), ("lr", "0.1"), ("model", "gpt2"),
    ],
)  # fmt: skip
def test_no_false_alarm(name: str, value: str) -> None:
    line = ["train.py", f"--{name}", value, f"{name}={value}", f"--{name}={value}"]
    assert redacted_command(line) == line
    assert redacted_text(" ".join(line)) == " ".join(line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:pw@host:5432/db", f"postgresql://{HIDDEN}@host:5432/db"),
        ("it said: token=abcdefgh broke", f"it said: token={HIDDEN} broke"),
        ("postgresql://me:p@w@host/db", f"postgresql://{HIDDEN}@host/db"),
        ("postgresql://me:p#w?@host/db", f"postgresql://{HIDDEN}@host/db"),
        ("see http://h/x?a=1&token=abc#b now", f"see http://h/x?a=1&token={HIDDEN}#b now"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=0a1b&X-Amz-Date=2026",
            f"https://b.s3.amazonaws.com/k?X-Amz-Signature={HIDDEN}&X-Amz-Date=2026",
        ),
        ("http://host:5000/#/experiments/1/runs/ab?workflowType=machine_learning", None),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {HIDDEN}"),
        ("curl -H 'authorization: Basic bWU6cHc='", f"curl -H 'authorization: Basic {HIDDEN}'"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", HIDDEN),
        ("key AKIAABCDEFGHIJKLMNOP.", f"key {HIDDEN}."),
        ("git@github.com:org/repo.git", None),
        ("commit 0123456789abcdef0123456789abcdef01234567", None),
        ("scikit-learn sk-learn task-based-sk-x", None),
        ("epoch: 3, loss: 0.25, step=7", None),
    ],
)
def test_secrets_in_a_text(text: str, expected: str) -> None:
    assert redacted_text(text) == (text if expected is None else expected)


def test_a_private_key_is_hidden_whole() -> None:
    pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----"
    assert redacted_text(f"a {pem} b") == f"a {HIDDEN} b"


@pytest.mark.parametrize(
    ("address", "bare"),
    [
        ("https://user:token@github.com/org/repo.git", "https://github.com/org/repo.git"),
        ("https://ghp_0123456789abcdefghijAB@github.com/o/r", "https://github.com/o/r"),
        ("ssh://git@host:22/x.git", "ssh://host:22/x.git"),
        ("git@github.com:org/repo.git", "git@github.com:org/repo.git"),
        ("postgresql://h/db?password=x&sslmode=require", "postgresql://h/db?sslmode=require"),
        ("http://h/a?token=x", "http://h/a"),
        ("http://h:5000", "http://h:5000"),
        ("/home/me/repo", "/home/me/repo"),
    ],
)
def test_an_address_without_credentials(address: str, bare: str) -> None:
    assert without_credentials(address) == bare


def test_a_value_that_is_known_is_hidden_wherever_it_stands() -> None:
    known = known_values({"MY_API_TOKEN": "opensesame-1", "HOME": "/home/me", "TOKEN": "abc"})
    assert known == {"opensesame-1"}
    line = redacted_command(["x.py", "opensesame-1", "--url", "h/opensesame-1/y"], known)
    assert line == ["x.py", HIDDEN, "--url", f"h/{HIDDEN}/y"]


def test_an_option_without_a_value_hides_nothing() -> None:
    line = ["x.py", "--password", "--lr", "0.1", "--no-auth", "--token"]
    assert redacted_command(line) == line


def test_a_token_is_told_from_a_name() -> None:
    assert looks_secret("0123456789abcdef0123")
    assert looks_secret("hf_abcdefghijklmnopqrstuvwxyz")
    assert not looks_secret("alice")
    assert not looks_secret("first.last@example.org")
