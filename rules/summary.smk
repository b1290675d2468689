# Around the jobs: what is prepared before them, and what became of each run that was asked for, told at the end.
import gc

# A plan of many runs is millions of objects that all stay; Python looks through them less often for what could go.
gc.set_threshold(100_000, 50, 100)


def needed_jobs(target):
    """Jobs that a target needs and that this call was to run, the target's own included."""
    found, pending = {target}, [target]
    while pending:
        for job in workflow.dag.dependencies[pending.pop()]:
            if job not in found:
                found.add(job)
                pending.append(job)
    return [job for job in found if workflow.dag.needrun(job)]


def told_job(job, run, failed):
    """One job as plain values."""
    wildcards = job.wildcards_dict
    state = "failed" if job in failed else "done" if workflow.dag.finished(job) else "waiting"
    return {
        "rule": job.rule.name,
        "about": " ".join(f"{name} {value}" for name, value in wildcards.items()),
        "state": state,
        "log": [str(path) for path in job.log],
        "of_run": run_of(wildcards) == run,
    }


def show_summary():
    """Print the summary of the runs of this call, and keep it in summary.txt and summary.csv."""
    from pulsetrain.run_status import describe_run, summary_text, write_summary

    # A group of jobs fails as one.
    failed = {job for each in workflow.scheduler.failed for job in (each.jobs if each.is_group() else [each])}
    targets = set(workflow.dag.targetjobs)
    targets |= {job for target in targets if target.rule.name == "all" for job in workflow.dag.dependencies[target]}
    jobs = {}
    for target in targets:
        run = run_of(target.wildcards_dict)
        if run is not None:
            jobs.setdefault(run, set()).update(needed_jobs(target))
    rows = []
    for run in sorted(jobs):
        told = [told_job(job, run, failed) for job in jobs[run]]
        if told:
            kind = RUNS.get(run, {}).get("kind")
            scans = [scan for scan in DSSC["scans"] if run in dssc_config.scan_runs(DSSC, RUNS, scan)]
            rows.append(describe_run(".", run, kind, sorted(told, key=lambda job: (job["rule"], job["about"])), scans))
    if rows:
        write_summary(".", rows)
        sys.stderr.write(
            "\n" + summary_text(rows) + "All runs so far: summary.txt and summary.csv in the scratch directory\n"
        )


def note_call():
    """Note who holds the lock, and the name of its Slurm jobs, for those who come after it was killed."""
    from pulsetrain.launch import record_call

    record_call(".", getattr(workflow.scheduler._executor, "run_uuid", None))


handed_over = None  # the file with the settings of this call, for its jobs


def prepare_jobs():
    """Tell the jobs by which code and settings they were planned; have Slurm asked for them often enough."""
    from pulsetrain.provenance import hand_over_code, hand_over_settings
    from pulsetrain.slurm_status import ask_steadily

    global handed_over
    handed_over = hand_over_settings(".snakemake", config, RUNS)
    hand_over_code(f"{rule.name}.py" for rule in workflow.rules)
    ask_steadily(workflow.scheduler._executor)


def end_call():
    """All jobs have ended: say what became of the runs."""
    show_summary()
    if handed_over is not None:
        handed_over.unlink(missing_ok=True)


onstart:
    note_call()
    prepare_jobs()


onsuccess:
    end_call()


onerror:
    end_call()
