"""What the agent tells the API server after each turn: the node's EPC and Events of pods, in a thread of its own.

A server that is slow or away holds up no limit: a turn that is not yet told is replaced by the next one. Its faults are
lines.
"""

import threading
from collections.abc import Callable

from epcgroup.agent.advertise import Advertiser
from epcgroup.agent.events import EventRecorder
from epcgroup.agent.reconcile import Once, Snapshot
from epcgroup.errors import InputError


class Outbox:
    def __init__(self, once: Once, advertiser: Advertiser | None, recorder: EventRecorder | None) -> None:
        self._once, self._advertiser, self._recorder = once, advertiser, recorder
        self._condition = threading.Condition()
        self._snapshot: Snapshot | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def tell(self, snapshot: Snapshot) -> None:
        """Soon; starts the thread."""
        with self._condition:
            self._snapshot = snapshot
            self._condition.notify()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
            self._thread.start()

    def close(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._advertiser is not None:
            self._advertiser.close()

    def work(self, snapshot: Snapshot) -> None:
        """Now."""
        works: list[Callable[[], None]] = []
        if (advertiser := self._advertiser) is not None:
            works.append(lambda: advertiser.turn(snapshot.capacity_bytes, snapshot.at))
        if (recorder := self._recorder) is not None:
            works.append(lambda: recorder.turn(snapshot))
        for work in works:
            try:
                work()
            except InputError as error:
                self._once(str(error))
        self._once.next_turn()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._snapshot is None and not self._stopped:
                    self._condition.wait()
                if self._stopped:
                    return
                snapshot, self._snapshot = self._snapshot, None
            assert snapshot is not None
            self.work(snapshot)
