"""Several shipments served in turn by one thread: the whole host, but for its loop."""

from __future__ import annotations

from pathlib import Path

from tracelet.ship.retry import Doze
from tracelet.ship.shipment import Shipment
from tracelet.spool.rundir import RunDir

__all__ = ["Rounds"]


class Rounds:
    """Serves every lane of every shipment, one step each, the light lanes first."""

    def __init__(self) -> None:
        self._waiting: list[Shipment] = []
        self.shipments: list[Shipment] = []
        self._doze = Doze()
        #: For how long a lane would like to be left alone.
        self._gathering = 0.0

    def add(self, shipment: Shipment) -> None:
        """Serve a shipment from the next turn on; later, while somebody else ships its run."""
        self._waiting.append(shipment)

    @property
    def empty(self) -> bool:
        """True when there is nothing to serve."""
        return not self._waiting and not self.shipments

    @property
    def served(self) -> set[Path]:
        """The folders of the runs that are served, or wait to be."""
        return {each.run.path for each in (*self._waiting, *self.shipments)}

    @property
    def delivered(self) -> set[Path]:
        """The folders of runs that are delivered and not put away yet."""
        return {
            each.run.path
            for each in list(self.shipments)
            if all(delivery.state == "closed" for delivery in each.all())
        }

    def turn(self) -> float:
        """Do one step of each lane; return for how many seconds nothing will be to do."""
        for shipment in list(self._waiting):
            if shipment.begin():
                self.shipments.append(shipment)
                self._waiting.remove(shipment)
            elif shipment.vanished:
                self._waiting.remove(shipment)
        pause = 60.0 if not self._waiting else 0.2
        changed, self._gathering = False, 0.0
        for shipment in list(self.shipments):
            pause = min(pause, self._serve(shipment))
            changed = shipment.watch() or changed
        self.put_away()
        if changed or pause < self._doze.shortest_s:
            self._doze.wake()
        return min(pause, max(self._gathering, self._doze.rest()))

    def wake(self) -> None:
        """Look often again: somebody waits."""
        self._doze.wake()
        for shipment in self.shipments:
            for delivery in shipment.all():
                for lane in delivery.lanes.values():
                    lane.await_all()

    def publish(self, run: RunDir) -> None:
        """Have a run say where it stands; from any thread, and at any time."""
        for shipment in list(self.shipments):
            if shipment.run.path == run.path:
                shipment.tell()

    def put_away(self) -> None:
        """Finish what is delivered and let go of; let go of what was deleted."""
        for shipment in list(self.shipments):
            if shipment.vanished:
                shipment.leave()
            elif shipment.done and shipment.claim():
                shipment.finish()
            else:
                continue
            # Not before: somebody may be waiting for it to be gone from here.
            self.shipments.remove(shipment)

    def _serve(self, shipment: Shipment) -> float:
        pause = 60.0
        for lane in ("light", "heavy"):
            for delivery in shipment.all():
                step = shipment.work(delivery, delivery.lanes[lane])
                if step.seconds:
                    pause = min(pause, step.seconds)
                    if step.kind == "sent":
                        self._gathering = max(self._gathering, step.seconds)
                elif step.kind != "idle":
                    pause = 0.0
        return pause

    def leave(self) -> None:
        """Let go of everything; whoever comes next goes on."""
        for shipment in self.shipments:
            shipment.leave()
        self.shipments.clear()
        self._waiting.clear()
