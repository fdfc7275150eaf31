"""
Which code ran: commit, branch, remote, and whether it was changed since.

``git`` itself is asked, because it knows worktrees, submodules, packed references and whatever
comes next. All questions run at once and have one deadline; what has no answer by then is left out.
No question changes anything: no lock is taken, no index refreshed, no hook or pager started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from tracelet._redaction import without_credentials

__all__ = ["Repository", "facts_of"]

#: Makes a look into a repository one that nobody notices.
_QUIET = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
}
#: They would point at another repository than the one that the program lies in: a program that was
#: started from a hook has them (``git rev-parse --local-env-vars``).
_LEADING_ASTRAY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
)  # fmt: skip
#: Reading names is safe in anybody's repository (a folder mounted into a container belongs to
#: somebody else); comparing files is not, because it may run filters that the repository names.
_ANYBODYS = ("-c", "safe.directory=*")
_SAFE = ("-c", "core.fsmonitor=false", "-c", "diff.relative=false")


class Repository:
    """
    The questions to the repository of a folder, on their way.

    Args:
        folder: Where the program lies.
        file: The program; one that git is told to ignore is not of this repository.
        environ: The environment.

    Raises:
        OSError: There is no git, or no such folder.
    """

    def __init__(self, folder: Path, file: Optional[Path], environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = {
            name: value
            for name, value in environ.items()
            if name not in _LEADING_ASTRAY and not name.startswith("GIT_TRACE")
        }
        self._environ.update(_QUIET)
        self._asked: list[subprocess.Popen[bytes]] = []
        self._head = self._ask(*_ANYBODYS, "rev-parse", "HEAD", "--symbolic-full-name", "HEAD")
        self._remotes = self._ask(
            *_ANYBODYS, "config", "--local", "--get-regexp", r"^remote\..*\.url$"
        )
        # Where the program has its children vanish, nobody learns how they ended.
        told = getattr(signal, "SIGCHLD", None) is None or (
            signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
        )
        self._changes = told and self._ask(
            *_SAFE, "diff", "--quiet", "--no-ext-diff", "--no-textconv",
            "--ignore-submodules=untracked", "HEAD", "--",
        )  # fmt: skip
        self._ignored = file is not None and self._ask(*_SAFE, "check-ignore", "--", str(file))

    def _ask(self, *arguments: str) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(  # noqa: S603 - no argument comes from anywhere else
                ["git", "-C", str(self._folder), "--no-pager", *arguments],  # noqa: S607
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environ,
            )
        except OSError:
            self.close()
            raise
        self._asked.append(process)
        return process

    def facts(self, deadline: float) -> Optional[Mapping[str, Any]]:
        """
        Return ``commit``, ``branch``, ``dirty`` and ``remote``, as far as they are known.

        Args:
            deadline: Until when to wait, on the monotonic clock.

        Returns:
            None when this is no repository, or one without a commit, or ignores the program.
        """
        try:
            found = self._answer(self._head, deadline)
            lines = found[1].split() if found and found[0] == 0 else []
            ignored = self._ignored and self._answer(self._ignored, deadline)
            if len(lines) != 2 or (ignored and ignored[1]):
                return None
            facts: dict[str, Any] = {"commit": lines[0]}
            if lines[1].startswith("refs/heads/"):
                facts["branch"] = lines[1][len("refs/heads/") :]
            remotes = self._answer(self._remotes, deadline)
            if remotes and remotes[0] == 0 and remotes[1]:
                # The first one, as MLflow takes it: ``remote.origin.url <address>``.
                _, _, address = remotes[1].splitlines()[0].partition(" ")
                facts["remote"] = without_credentials(address)
            changes = self._changes and self._answer(self._changes, deadline)
            if changes and changes[0] in (0, 1):
                facts["dirty"] = changes[0] == 1
            return facts
        finally:
            self.close()

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], deadline: float) -> Optional[tuple[int, str]]:
        try:
            output, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        return process.returncode, output.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """End what has not answered."""
        for process in self._asked:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._asked.clear()


def facts_of(
    places: Sequence[tuple[Path, Optional[Path]]], deadline: float
) -> Optional[Mapping[str, Any]]:
    """
    Return the facts of the first of these places that lies in a repository.

    Args:
        places: Folders, and of each the program in it, if it is one.
        deadline: Until when, on the monotonic clock.
    """
    for folder, file in places:
        try:
            repository = Repository(folder, file, os.environ)
        except OSError:
            return None  # no git here
        found = repository.facts(deadline)
        if found is not None:
            return found
    return None
