"""
``clearml.conf``, as far as it says where the servers are and who we are.

The file is HOCON: JSON that may do without quotes, commas and outer braces. What people write by
hand into the section ``api`` is read here (objects, dotted keys, strings in and without quotes,
``${NAME}`` from the environment, comments); the SDK's own reader would bring the whole SDK.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping, Optional

__all__ = ["find", "parse"]

#: Where ClearML looks, the last one wins (``clearml/backend_config/defs.py``).
_HOMES = ("trains.conf", "clearml.conf")
_VARIABLES = ("CLEARML_CONFIG_FILE", "TRAINS_CONFIG_FILE")

_TOKEN = re.compile(
    r"""
      (?P<skip>[ \t\r]+ | \#[^\n]* | (?<!:)//[^\n]*)
    | (?P<end>[\n,])
    | (?P<mark>[{}\[\]=:])
    | \"\"\"(?P<raw>.*?)\"\"\"
    | "(?P<quoted>(?:[^"\\\n]|\\.)*)"
    | \$\{\??(?P<variable>[^}\s]+)\}
    | (?P<bare>(?:://|[^\s{}\[\]=:,"\#$])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def find(given: Optional[str], environ: Mapping[str, str], home: Path) -> Mapping[str, str]:
    """
    Return what the configuration file says: dotted key → text; nothing where there is none.

    Args:
        given: Its path, when the user gave one.
        environ: The environment.
        home: Where it is otherwise.
    """
    named = given or next((environ[name] for name in _VARIABLES if environ.get(name)), None)
    paths = [Path(named).expanduser()] if named else [home / name for name in _HOMES]
    found: dict[str, str] = {}
    for path in paths:
        try:
            found.update(parse(path.read_text(encoding="utf-8"), environ))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def parse(text: str, environ: Mapping[str, str]) -> Mapping[str, str]:
    """
    Return every plain value of a HOCON text under its dotted key.

    Lists are left out. What is not HOCON is passed over: this file is checked by its owner.
    """
    found: dict[str, str] = {}
    path: list[str] = []
    #: How long the path was outside of each object that is open.
    opened: list[int] = []
    key: list[str] = []
    value: Optional[list[str]] = None
    lists = 0

    def settle() -> None:
        nonlocal value
        if key and value:
            found[".".join([*path, *key])] = "".join(value)
        key.clear()
        value = None

    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        mark = token["mark"]
        if lists or mark == "[":
            lists += (mark == "[") - (mark == "]")
        elif kind == "skip":
            continue
        elif kind == "end":
            settle()
        elif mark == "{":
            opened.append(len(path))
            path += key
            key.clear()
            value = None
        elif mark == "}":
            settle()
            del path[opened.pop() if opened else 0 :]
        elif mark is not None:
            if value is None:
                value = []
            else:
                value.append(mark)
        elif value is not None:
            value.append(_piece(token, environ))
        else:
            part = _piece(token, environ)
            key += part.split(".") if kind == "bare" else [part]
    settle()
    return found


def _piece(token: re.Match[str], environ: Mapping[str, str]) -> str:
    if token["variable"] is not None:
        return environ.get(token["variable"], "")
    if token["quoted"] is not None:
        return _ESCAPED.sub(r"\1", token["quoted"])
    return token["raw"] if token["raw"] is not None else token["bare"] or ""
