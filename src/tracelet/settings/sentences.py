"""What went wrong with a setting, in one sentence and without the value of a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Sequence, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from tracelet._redaction import redacted_text, without_credentials
from tracelet.errors import nearest


def secret_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of a model's fields whose values must not be written anywhere."""
    return frozenset(
        name for name, field in model.model_fields.items() if "SecretStr" in repr(field.annotation)
    )


def sentence(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """
    Turn pydantic's report into one sentence, without any value that could be a secret.

    Args:
        error: What pydantic raised.
        model: The model it raised for.
        where: The backend whose options these are; empty for the settings themselves.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"] if not _is_branch(part)]
    key = path[0] if path else ""
    setting = ".".join(([where] if where else []) + path[:2])
    fields = model.model_fields
    if first["type"] == "extra_forbidden":
        return unknown(key, list(fields), where)
    if first["type"] == "missing":
        return f"The setting {setting!r} is missing."
    if first["type"] == "too_short":
        return f"The setting {setting!r} is empty."
    if first["type"] == "value_error":
        reason = str(first["msg"]).split("Value error, ", 1)[-1].rstrip(".")
        return f"The setting {setting!r} cannot be used: {reason}."
    wanted = _wanted(fields[key], first["msg"]) if key in fields else _lower(first["msg"])
    got = "" if key in secret_fields(model) else f", not {shown(first.get('input'))}"
    return f"The setting {setting!r} must be {wanted}{got}."


def unknown(key: object, known: Sequence[str], where: str = "") -> str:
    """Return the sentence for a key that nobody reads."""
    near = nearest(str(key), known)
    rest = "" if near else f" Known: {', '.join(sorted(known))}."
    return f"Unknown setting {key!r}{f' for {where}' if where else ''}.{near}{rest}"


def redacted(text: str) -> str:
    """Return ``text`` without what looks like a secret, of every address the user's part too."""
    return redacted_text(text)


def has_userinfo(value: object) -> bool:
    """Return True for an address that carries a user name, a password or a token."""
    return isinstance(value, str) and "://" in value and without_credentials(value) != value


def without_userinfo(value: Any) -> Any:
    """Return a JSON value with user names, passwords and tokens taken out of its addresses."""
    if isinstance(value, str):
        return without_credentials(value) if "://" in value else value
    if isinstance(value, list):
        return [without_userinfo(item) for item in value]
    if isinstance(value, dict):
        return {key: without_userinfo(item) for key, item in value.items()}
    return value


def _is_branch(part: object) -> bool:
    """Tell a member of a union, which pydantic writes into the path, from a name of ours."""
    return isinstance(part, str) and (part in ("str", "int") or "[" in part)


def _wanted(field: FieldInfo, message: str) -> str:
    return _words(field.annotation) or _lower(message)


def _lower(message: str) -> str:
    message = message.replace("Input should be ", "")
    return message[:1].lower() + message[1:]


def _words(annotation: Any) -> str:
    simple = {
        str: "a text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Path: "a folder's path",
        SecretStr: "a text",
        list: "a list of names",
        dict: "a dictionary",
    }
    if annotation in simple:
        return simple[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin is list:
        return "a name or a list of names"
    if origin is dict:
        return "a dictionary of texts"
    if origin is Union:
        inner = [_words(arg) for arg in args if arg is not type(None)]
        return " or ".join(inner) if all(inner) else ""
    return ""


def shown(value: object) -> str:
    """Return a value as it may stand in a sentence: short, and without a password."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        text = redacted(repr(value))
        return text if len(text) <= 60 else text[:57] + "…"
    return type(value).__name__
