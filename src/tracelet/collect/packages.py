"""Which packages are installed, and in which versions, from the names of their folders."""

from __future__ import annotations

import os
import re
import sys
from typing import Mapping, Sequence

__all__ = ["installed"]

#: ``torch-2.13.0.dist-info``; see the specification "Recording installed projects".
_RECORD = re.compile(r"(?P<name>.+?)-(?P<version>\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info", re.DOTALL)


def installed(path: Sequence[str] = ()) -> Mapping[str, str]:
    """
    Return names (as the package index writes them, in lower case) and versions.

    Nothing is opened: asking ``importlib.metadata`` for 150 packages takes 100 ms, and the names of
    the folders say the same. A package without a version in the name (a source tree) is left out.

    Args:
        path: Where to look; ``sys.path`` when empty. The first of two wins, as on import.
    """
    found: dict[str, str] = {}
    for folder in path or sys.path:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208 - half the time
        except OSError:
            continue
        for each in names:
            if not each.endswith("-info"):
                continue
            record = _RECORD.fullmatch(each)
            if record is not None:
                name = re.sub(r"[-_.]+", "-", record["name"]).lower()
                found.setdefault(name, record["version"])
    return dict(sorted(found.items()))
