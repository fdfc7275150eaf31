"""What Aim raises, as one of the answers that a backend may give."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from tracelet._imports import load
from tracelet.errors import BackendError, ConfigError, RetryableError, TraceletError, shortened

__all__ = ["answered"]

_MOST = 300


@contextmanager
def answered(what: str) -> Iterator[None]:
    """
    Turn what Aim and what is below it raise into an answer.

    Args:
        what: What was tried, the beginning of a sentence.

    Raises:
        RetryableError: It may pass: a disk, a server, a lock.
        ConfigError: A person has to change something first.
    """
    load("requests", "aimrocks.errors", "sqlalchemy.exc", "websockets.exceptions")
    import requests
    from aimrocks.errors import Corruption, RocksIOError
    from sqlalchemy.exc import SQLAlchemyError
    from websockets.exceptions import WebSocketException

    passing = (
        *(OSError, EOFError, TimeoutError, requests.RequestException, WebSocketException),
        *(RocksIOError, Corruption, SQLAlchemyError),
    )
    try:
        yield
    except (BackendError, TraceletError):
        raise
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise ConfigError(f"{what}: {error}") from error
    except passing as error:
        raise RetryableError(f"{what}: {_said(error)}") from error
    except RuntimeError as error:
        # Aim's word for a server that is away, and for one of another version.
        if "compatible" in str(error):
            raise ConfigError(f"{what}: {_said(error)}") from error
        raise RetryableError(f"{what}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return shortened(" ".join(str(error).split()) or type(error).__name__, _MOST)
