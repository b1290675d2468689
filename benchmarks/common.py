"""Timing for benchmarks: candidates take turns in one process, so that other work on the machine meets them alike."""

import gc
import os
import time


def interleaved(candidates, rounds, before=None):
    """Time functions in turns and give the shortest time of each.

    Parameters
    ----------
    candidates : dict
        {name: function without arguments}. Each runs once beforehand, untimed.
    rounds : int
    before : callable, optional
        Called before each timed call, untimed.

    Returns
    -------
    dict
        {name: shortest time [s]}.
    """
    names = list(candidates)
    for name in names:
        candidates[name]()
    times = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if before is not None:
                before()
            gc.collect()
            start = time.perf_counter()
            candidates[name]()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def report(name, ratio, goal):
    """Print one line ``name = ratio``, with the goal as a comment."""
    print(f"{name} = {ratio:.2f}  # goal: {goal}", flush=True)


def forget(path):
    """Drop a file from the page cache, so that the next reading is from disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
