"""Progress of long work in the log: frames done, rate, time left."""

import logging
import time

log = logging.getLogger(__name__)


def progress(total, what="frames", every_s=5.0):
    """Give a function that counts work done and logs a line every few seconds.

    Parameters
    ----------
    total : int
        Amount of work.
    what : str
        Its unit, for the log.
    every_s : float
        Seconds between lines.

    Returns
    -------
    callable
        Call it with the amount done since the last call.
    """
    start = time.monotonic()
    state = {"done": 0, "told": start}

    def advance(amount):
        state["done"] += amount
        now = time.monotonic()
        finished = state["done"] >= total
        if now - state["told"] < every_s and not finished:
            return
        state["told"] = now
        rate = state["done"] / max(now - start, 1e-9)
        left = (total - state["done"]) / rate if rate else float("nan")
        log.info("%d of %d %s, %.0f per second, %.0f s left", state["done"], total, what, rate, left)

    return advance
