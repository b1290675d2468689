"""Independent pieces of work on several processes."""

import multiprocessing


def run_all(tasks, processes):
    """Run functions without arguments, each in one of some processes; the first error is raised.

    For work that holds Python's or HDF5's lock, where threads do not help. The processes are forks, so that they
    share the log.

    Parameters
    ----------
    tasks : list of callable
    processes : int
    """
    if processes == 1 or len(tasks) == 1:
        for task in tasks:
            task()
        return
    with multiprocessing.get_context("fork").Pool(min(processes, len(tasks))) as pool:
        for result in [pool.apply_async(task) for task in tasks]:
            result.get()
