"""
Tracking URIs: which store one means, the right one near a wrong one, and MLflow's default.

What MLflow would choose by itself is what ``mlflow ui`` opens in the same folder, so its rules are
followed to the letter (``mlflow/tracking/_tracking_service/utils.py``): up to 3.6 the folder
``./mlruns``; from 3.7 on the database ``./mlflow.db``, unless ``./mlruns`` holds experiments.
"""

from __future__ import annotations

import enum
import os
import re
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from tracelet.backends.mlflow import versions
from tracelet.errors import ConfigError

__all__ = [
    "StoreKind",
    "absolute",
    "artifact_folder",
    "database_path",
    "default",
    "folder",
    "holds_experiments",
    "host_and_port",
    "kind_of",
    "local",
    "with_userinfo",
    "without_userinfo",
]

_SQL = ("postgresql", "mysql", "mssql")
_WEB = ("http", "https")
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433, "http": 80, "https": 443}
#: Words and schemes that MLflow itself hands to a hosted service.
_HOSTED = ("databricks", "databricks-uc", "uc")

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+):(.*)$", re.DOTALL)
_HOST_AND_PORT = re.compile(r"^(localhost|[\w\-]+(\.[\w\-]+)*):\d+(/.*)?$")
_HOST_NAME = re.compile(r"^(localhost|([A-Za-z0-9\-]+\.)+[A-Za-z]{2,})(/.*)?$")
_USERINFO = re.compile(r"(^|(?<=//)|(?<=:))[^/@\s]*@")
#: As SQLAlchemy reads it (``sqlalchemy/engine/url.py``): a password may hold a slash.
_LOGIN = re.compile(r"^([^:]+://)([^:/@]*)(?::([^@]*))?@(.*)$", re.DOTALL)
_DATABASE_FILE = re.compile(r"\.(db|sqlite3?)$")


class StoreKind(enum.Enum):
    """What a tracking URI leads to."""

    SERVER = "server"
    SQLITE = "sqlite"
    DATABASE = "database"
    FOLDER = "folder"
    PLUG_IN = "plug-in"


def kind_of(url: str) -> StoreKind:
    """Return what an absolute tracking URI leads to."""
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme in _WEB:
        return StoreKind.SERVER
    if scheme == "sqlite":
        return StoreKind.SQLITE
    if scheme in _SQL:
        return StoreKind.DATABASE
    if scheme == "file":
        return StoreKind.FOLDER
    return StoreKind.PLUG_IN


def default(cwd: Path, version: Optional[versions.Version] = None) -> str:
    """
    Return the URI that MLflow would choose in the folder ``cwd`` with nothing configured.

    Args:
        cwd: The folder.
        version: MLflow's version; the installed one when not given.
    """
    version = version or versions.mlflow()
    files = cwd / "mlruns"
    if (version is not None and version < (3, 7, 0)) or holds_experiments(files):
        return files.as_uri()
    return _sqlite(str(cwd / "mlflow.db"))


def absolute(url: str, cwd: Path) -> str:
    """
    Return ``url`` complete: with a scheme, and with an absolute path where it has a path.

    Args:
        url: A tracking URI as a user may write it, a folder's path included.
        cwd: What relative paths are relative to.

    Raises:
        ConfigError: It can never work; the text says what would.
    """
    url = url.strip()
    if not url:
        raise ConfigError(
            "The MLflow address is empty: write 'http://host:5000', 'sqlite:///mlflow.db', or a "
            "folder such as './mlruns'."
        )
    if url in _HOSTED:
        return url
    if _HOST_AND_PORT.match(url):
        raise _wrong(url, "has no scheme", f"http://{url}")
    parts = _SCHEME.match(url)
    if parts is None:
        return _folder_url(url, cwd)
    scheme, rest = parts[1].lower(), parts[2]
    dialect = scheme.partition("+")[0]
    if scheme in _WEB:
        return _server(url, scheme, rest)
    if scheme == "file":
        return _file(url, cwd)
    if dialect == "sqlite":
        return _absolute_sqlite(scheme, rest, cwd)
    if dialect in _SQL:
        if not rest.startswith("//"):
            raise _wrong(url, "lacks the two slashes", f"{scheme}://{rest.lstrip('/')}")
        return f"{scheme}:{rest}"
    if scheme in _HOSTED or scheme in _plug_ins():
        return url
    raise _unknown_scheme(url, scheme, rest)


def without_userinfo(url: str) -> tuple[str, Optional[str], Optional[str]]:
    """Return the URL without ``user:password@``, and these two, decoded."""
    database = _LOGIN.match(url) if kind_of(url) is StoreKind.DATABASE else None
    if database is not None:
        start, user, password, rest = database.groups()
        return start + rest, unquote(user) or None, password and unquote(password)
    parts = _split(url)
    if parts is None or "@" not in parts.netloc:
        return url, None, None
    info, _, host = parts.netloc.rpartition("@")
    user, colon, password = info.partition(":")
    bare = _join(parts, host)
    return bare, unquote(user) or None, unquote(password) if colon else None


def with_userinfo(url: str, username: Optional[str], password: Optional[str]) -> str:
    """Put a name and a password into the URL of a database, as its driver wants them."""
    parts = _split(url)
    if parts is None or "@" in parts.netloc or (username is None and password is None):
        return url
    info = quote(username or "", safe="")
    if password is not None:
        info += ":" + quote(password, safe="")
    return _join(parts, f"{info}@{parts.netloc}")


def database_path(url: str) -> Path:
    """Return the file of an absolute SQLite URI."""
    text = url.partition("///")[2].partition("?")[0]
    return Path(unquote(text) if _decodes_paths() else text)


def folder(url: str) -> Path:
    """Return the path of an absolute ``file:`` URI."""
    return Path(url2pathname(urlsplit(url).path))


def host_and_port(url: str) -> Optional[tuple[str, int]]:
    """Return where a server listens; None where the URI does not say."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    return (parts.hostname, port) if parts.hostname and port is not None else None


def local(url: str) -> Path:
    """Return the file of an SQLite database, or the folder of files, that a tracking URI means."""
    return database_path(url) if kind_of(url) is StoreKind.SQLITE else folder(url)


def artifact_folder(location: str) -> Optional[Path]:
    """Return the folder that an artifact URI means; None where it means none of this machine."""
    scheme = urlsplit(location).scheme
    if scheme == "file":
        return folder(location)
    # One letter is a drive of Windows.
    return Path(location) if len(scheme) <= 1 else None


def holds_experiments(files: Path) -> bool:
    """MLflow's own test: a folder whose name is all digits, with a ``meta.yaml``."""
    try:
        with os.scandir(files) as entries:
            return any(
                entry.is_dir() and entry.name.isdigit() and (Path(entry) / "meta.yaml").exists()
                for entry in entries
            )
    except OSError:
        return False


def _server(url: str, scheme: str, rest: str) -> str:
    if not rest.startswith("//"):
        raise _wrong(url, "lacks the two slashes", f"{scheme}://{rest.lstrip('/')}")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise _wrong(url, "has a port that is no number up to 65535", None) from None
    if not parts.hostname:
        raise _wrong(url, "names no host", f"{scheme}://localhost:5000")
    if parts.netloc.endswith(":") or port == 0:
        raise _wrong(url, "names no port after the colon", f"{scheme}://{parts.hostname}:5000")
    if parts.query:
        raise _wrong(url, "ends in a query", f"{scheme}://{parts.netloc}{parts.path}".rstrip("/"))
    # What stands behind # is a page of the web interface, copied from the browser.
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _file(url: str, cwd: Path) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        meant = _inside(cwd, parts.netloc + parts.path).as_uri()
        raise _wrong(url, "has two slashes, which makes the folder a host", meant)
    return _inside(cwd, url2pathname(parts.path)).as_uri()


def _folder_url(text: str, cwd: Path) -> str:
    path = _inside(cwd, text)
    if _DATABASE_FILE.search(text) or path.is_file():
        raise _wrong(text, "is the name of a file, not of a folder", f"sqlite:///{text}")
    typo = re.match(r"^(https?)/+(.*)$", text)
    if typo is not None:
        raise _wrong(text, "lacks a colon", f"{typo[1]}://{typo[2]}")
    if _HOST_NAME.match(text) and not path.exists():
        raise ConfigError(
            f"The MLflow address {text!r} has no scheme: write 'https://{text}', or './{text}' "
            "if it is a folder."
        )
    return path.as_uri()


def _absolute_sqlite(scheme: str, rest: str, cwd: Path) -> str:
    path, question, query = rest.partition("?")
    if not path.startswith("///"):
        raise _wrong(f"{scheme}:{rest}", "needs three slashes", f"{scheme}:///{rest.lstrip('/')}")
    name = path[3:]
    if name in ("", ":memory:"):
        raise ConfigError(
            "An SQLite database in memory is lost with the process that has it: name a file, for "
            "example 'sqlite:///mlflow.db'."
        )
    return f"{scheme}:///{_posix(_inside(cwd, name))}{question}{query}"


def _sqlite(path: str) -> str:
    if _decodes_paths():
        path = path.replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{_posix(Path(path))}"


def _decodes_paths() -> bool:
    """SQLAlchemy reads %XX in a database's path from 2.1 on."""
    return (versions.sqlalchemy() or (0, 0, 0)) >= (2, 1, 0)


def _inside(cwd: Path, path: str) -> Path:
    return Path(os.path.normpath(cwd / path))


def _posix(path: Path) -> str:
    return path.as_posix()


def _split(url: str) -> Any:
    if "://" not in url or kind_of(url) in (StoreKind.SQLITE, StoreKind.FOLDER):
        return None
    return urlsplit(url)


def _join(parts: Any, netloc: str) -> str:
    tail = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{netloc}{parts.path}{tail}"


def _plug_ins() -> set[str]:
    found: Any = entry_points()
    group = "mlflow.tracking_store"
    # 3.9 returns a dictionary of groups; later versions an object to select from.
    selected = found.select(group=group) if hasattr(found, "select") else found.get(group, ())
    return {point.name for point in selected}


def _shown(url: str) -> str:
    """Return an address, however malformed, without a name and a password."""
    start, slashes, rest = url.partition("//")
    info, at, host = rest.rpartition("@")
    if at and ":" in info:
        return f"{start}{slashes}{host}"
    return _USERINFO.sub("", url)


def _wrong(url: str, why: str, instead: Optional[str]) -> ConfigError:
    remedy = "" if instead is None else f": write {_shown(instead)!r}"
    return ConfigError(f"The MLflow address {_shown(url)!r} {why}{remedy}.")


def _unknown_scheme(url: str, scheme: str, rest: str) -> ConfigError:
    known = [*_WEB, *_SQL, "sqlite", "file", *_HOSTED, *sorted(_plug_ins())]
    close = get_close_matches(scheme, known, n=1, cutoff=0.5)
    if close:
        return _wrong(url, f"has the unknown scheme {scheme!r}", f"{close[0]}://{rest.lstrip('/')}")
    return _wrong(url, f"has a scheme that is none of {', '.join(known)}", None)
