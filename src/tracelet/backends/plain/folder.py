"""The folder that a user names, and what its disk says."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tracelet.errors import ConfigError, RetryableError
from tracelet.findings import Finding, of_error

# A person has to change something. Everything else that a disk says may pass.
_HOPELESS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


def chosen(backend: str, given: Mapping[str, Optional[str]], default: str, cwd: Path) -> Path:
    """
    Return the absolute folder that options mean.

    Args:
        backend: Whose options they are.
        given: What each of them says; ``url`` may be ``file://…``.
        default: The folder when none says anything.
        cwd: What relative ones are relative to.

    Raises:
        ConfigError: ``url`` is no folder, or two of them say different things.
    """
    texts = [
        _local(backend, text) if option == "url" else text
        for option, text in given.items()
        if text is not None
    ]
    folders = {os.path.normpath(cwd / Path(text).expanduser()) for text in texts}
    if len(folders) > 1:
        either = " or ".join(repr(option) for option in given)
        raise ConfigError(f"The {backend} backend has one folder: give either {either}.")
    return Path(folders.pop()) if folders else cwd / default


def _local(backend: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return url2pathname(parts.path)
    if "://" in url:
        raise ConfigError(f"The {backend} backend writes into a folder, and {url!r} is none.")
    return url


def make(folder: Path, option: str) -> None:
    """
    Make the folder, and see whether one may write into it.

    Raises:
        ConfigError: One may not.
        RetryableError: The disk fails in a way that may pass.
    """
    with answered(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refusal(folder, option)


def examined(folder: Path, option: str) -> Iterable[Finding]:
    """See whether one may write into the folder, or make it; nothing is changed."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("ok", "folder", str(folder))
    else:
        yield of_error(_refusal(folder, option), "folder")


def _refusal(folder: Path, option: str) -> ConfigError:
    return ConfigError(
        f"Nothing can be written into the folder {str(folder)!r}",
        f"give another one with the option {option!r}",
    )


@contextmanager
def answered(path: Path, otherwise: Optional[type[RetryableError]] = None) -> Iterator[None]:
    """
    Turn what the disk says into one of a backend's answers.

    Args:
        path: What is being worked on.
        otherwise: What to raise where a person would have to change something: while a run is
            open, that may pass, too.
    """
    try:
        yield
    except BlockingIOError as error:
        raise RetryableError(f"another process is writing {str(path)!r}") from error
    except OSError as error:
        if otherwise is None and error.errno in _HOPELESS:
            raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
        raise RetryableError(f"{str(path)!r} cannot be written now: {error.strerror}") from error
