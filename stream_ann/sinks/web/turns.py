"""What the page may cost the run: visitors are served one after the other, and less often where frames are lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["LEAST_SHARE", "MOST_SHARE", "Turns"]

MOST_SHARE = 0.25
"""The page takes at most so much of one processor core."""
LEAST_SHARE = 0.03
"""And where frames are lost no less than this."""
LOST = 0.01
"""So many of all frames may go without an answer before the page gives way."""
JUDGED_BY = 20
"""So many frames tell how many are lost."""
GIVEN_BACK = 0.01
"""What the page gets back of its share each time that none are lost."""
BURST_S = 0.01
"""So much processor time may be taken at once: falling asleep after each message would cost as much as sending it."""
LONGEST_S = 1.0
"""Nobody who is next waits longer than this, whatever was taken before."""
IDLE_S = 0.5
"""When nobody has had to wait for so long, there is time to look at the run for everybody who asks."""
_SLICE_S = 0.1


class Turns:
    """Lets those who want to be sent something come one by one, so that all together take no more than their share.

    What the serving thread has taken is known from its own processor time, which holds everything: taking in requests,
    encoding, sending. For use in that thread alone.

    Args:
        clock: Tells the time, in seconds.
        taken: Tells the processor time that the thread has taken, in seconds.

    Attributes:
        share: What may be taken at the moment, in cores.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, taken: Callable[[], float] = time.thread_time
    ) -> None:
        self.share = MOST_SHARE
        self._clock, self._taken = clock, taken
        self._next = asyncio.Lock()
        self._debt_s = -BURST_S
        self._settled: tuple[float, float] | None = None
        self._waited_s = float("-inf")
        self._counted = (0, 0)
        self._stopped = False

    async def turn(self) -> None:
        """Wait until it is one's turn. Who comes first is served first."""
        async with self._next:
            while not self._stopped and (wait_s := self.wait_s()) > 0:
                self._waited_s = self._clock()
                await asyncio.sleep(min(wait_s, _SLICE_S))

    @property
    def idle(self) -> bool:
        """Whether little is asked for: nobody has had to wait for a while."""
        return self._clock() - self._waited_s > IDLE_S

    def wait_s(self) -> float:
        """How long the next one has to wait yet, in seconds: for some who can then come right after each other."""
        now_s, taken_s = self._clock(), self._taken()
        before_s, had_s = self._settled or (now_s, taken_s)
        self._settled = now_s, taken_s
        owed_s = self._debt_s + (taken_s - had_s) - self.share * (now_s - before_s)
        self._debt_s = min(max(owed_s, -BURST_S), LONGEST_S * self.share)
        return (self._debt_s + BURST_S) / self.share if self._debt_s > 0 else 0.0

    def mind(self, answered: int, lost: int) -> None:
        """Take less where frames are lost, and more again where they are not.

        Halved at once and given back slowly, it settles where next to none are lost. A camera that is faster than the
        engine whatever the page does leaves it the least: ten pictures a second for one visitor.

        Args:
            answered: Frames that were answered so far, of all sources.
            lost: Frames that were replaced so far.
        """
        new, gone = answered - self._counted[0], lost - self._counted[1]
        if new + gone < JUDGED_BY:
            return
        self._counted = answered, lost
        if gone > LOST * (new + gone):
            self.share = max(LEAST_SHARE, self.share / 2)
        else:
            self.share = min(MOST_SHARE, self.share + GIVEN_BACK)

    def stop(self) -> None:
        """Let everybody come at once."""
        self._stopped = True
