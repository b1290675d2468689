"""Independent pieces of work on several processes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def run_all(tasks, processes):
    """Run functions without arguments, each in one of some processes; the first error is raised.

    For work that holds Python's or HDF5's lock, where threads do not help. The processes are forks, so that they
    share the log. A process that is killed (out of memory) is an error, not an endless wait.

    Parameters
    ----------
    tasks : list of callable
    processes : int
    """
    if processes == 1 or len(tasks) == 1:
        for task in tasks:
            task()
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
