"""Timing for benchmarks: candidates take turns in one process, each when the machine is idle."""

import gc
import os
import time
from pathlib import Path


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
            wait_for_idle()
            start = time.perf_counter()
            candidates[name]()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def wait_for_idle(longest_s=3.0, window_s=0.03, share=0.85):
    """Wait until the cores have been idle for a moment, but not longer than `longest_s`: others may use the machine."""
    end = time.monotonic() + longest_s
    total, idle = _core_time()
    while time.monotonic() < end:
        time.sleep(window_s)
        now, now_idle = _core_time()
        if now_idle - idle >= share * (now - total):
            return
        total, idle = now, now_idle


def _core_time():
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(fields), fields[3] + fields[4]


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
