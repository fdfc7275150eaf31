"""
The contract of a backend, as a test class that anybody can run on their own.

How to use it
    In a test module of your package, subclass ``BackendSuite``, name the subclass ``Test…``, and
    run pytest. Nothing else is needed, no plug-in and no ``conftest.py``::

        from tracelet.testing import BackendSuite, Item, Seen

        class TestMyTracker(BackendSuite):
            package = "mytracker"
            forms = {"mesh": "file", "audio": "unsupported"}
            cannot = {"killed": "The tracker knows finished and failed runs only."}

            def backend(self):
                return MyBackend(MyOptions(url=self.url, timeout_s=2))

            def read_back(self, remote):
                found = mytracker.Client(self.url).get_run(remote.id)      # never MyBackend
                return Seen(id=found.id, project=found.project, ...)

            @contextmanager
            def break_with(self, fault):
                with self.server.answering({"unavailable": 503, "busy": 429, ...}[fault]):
                    yield

    Fixtures are the usual ones: a server that lives for the whole module is an autouse fixture of
    your class that sets ``self.url``. ``self.folder`` is a fresh folder for each test.

What to fill in
    Three hooks are needed: ``backend``, ``read_back`` and ``break_with``; ``child_of`` and
    ``sdk_globals`` where the tracker has such a thing. Everything else is declared in attributes.
    What the store cannot do goes into ``cannot`` with a reason that a user understands: the test is
    then skipped, and the reason begins with ``declared:`` so that a report can tell it from a hole;
    or, wherever that is possible, the test checks what happens instead (a record that cannot be
    stored is rejected by name, and the rest of the batch arrives). The names are explained in
    ``contract.ABILITIES`` and ``contract.FAULTS``; the kinds for ``forms`` are those of
    ``samples.SAMPLES``. In the job that is meant to have everything, let a skip with another reason
    fail.

What usually goes wrong at first
    11: a batch with ``resend`` may be there in whole, in part, or not at all. ``Batch.offset`` with
    the lane is the same whenever a record is sent again; use it as the key if the store has one,
    else read back from there. 13: the SDK's own exceptions have to become ``RetryableError``,
    ``RejectedError`` or ``ConfigError``. 15: most SDKs wait for minutes unless told otherwise.
    20: a session that is not closed, a variable that the SDK exports.

How to read it
    Each test is named after its clause. A test opens a run, hands records over as the shipper does
    (``delivery.Delivery``), calls ``barrier``, and compares what was sent with what ``read_back``
    found in the store. Some let another process do it and kill that process (``elsewhere.Visit``).
"""

from __future__ import annotations

from tracelet.testing.clauses.artifacts import Artifacts
from tracelet.testing.clauses.endings import Endings
from tracelet.testing.clauses.failures import Failures
from tracelet.testing.clauses.identity import Identity
from tracelet.testing.clauses.keys import Keys
from tracelet.testing.clauses.kinds import Kinds
from tracelet.testing.clauses.manners import Manners
from tracelet.testing.clauses.numbers import Numbers
from tracelet.testing.clauses.parameters import Parameters
from tracelet.testing.clauses.repetition import Repetition
from tracelet.testing.contract import ABILITIES, FAULTS, FORMS, Session
from tracelet.testing.seen import Item, Seen

__all__ = ["ABILITIES", "FAULTS", "FORMS", "BackendSuite", "Item", "Seen", "Session"]


class BackendSuite(
    # Backwards, so that pytest runs the clauses in their order.
    Manners,
    Endings,
    Artifacts,
    Failures,
    Repetition,
    Parameters,
    Kinds,
    Keys,
    Numbers,
    Identity,
):
    """The 21 clauses. Subclass this, name the subclass ``Test…``, and fill in the hooks."""
