"""A real Slurm in a temporary directory: controller, accounting with its own MariaDB, several nodes on this host.

`python cluster.py serve DIRECTORY` starts it and stops it again when the last of its users (processes that have a file
in DIRECTORY/users) has ended, however it ended. Nothing is read from or written to /etc/slurm.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "srun", "sacct", "mariadbd", "mariadb", "mariadb-install-db")
NODES = ("n1", "n2", "n3")
# Only the tests that switch a node off use these, so that no other test loses its jobs.
FRAIL_NODES = ("f1", "f2")
# Partitions of the steady nodes that a test closes for a while, each for one test.
GATES = ("edited", "unused", "settings", "arrivals")
# What Slurm's commands say while the controller or the accounting daemon is away.
AWAY = ("Connection refused", "Unable to contact", "Problem talking to the database")
CPUS = 8
MEMORY_MB = 16000  # both claimed, not there: the jobs of the tests take far less than they ask for

# Clocks are fast: a dead node is noticed after 10 s, its job may start again after cred_expire.
SLURM_CONF = """\
ClusterName=pulsetrain
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=20
CredType=cred/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
PriorityType=priority/basic
ReturnToService=2
JobRequeue=1
KillWait=3
OverTimeLimit=0
SlurmdTimeout=10
UnkillableStepTimeout=120
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={accounting_port}
AccountingStoreFlags=job_comment
{nodes}
PartitionName=upex Nodes={steady} Default=YES MaxTime=INFINITE DefaultTime=60 DefMemPerCPU=100 State=UP
{gates}
PartitionName=frail Nodes={frail} MaxTime=INFINITE DefaultTime=60 DefMemPerCPU=100 State=UP
"""

SLURMDBD_CONF = """\
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={root}/log/slurmdbd.log
PidFile={root}/slurmdbd.pid
CommitDelay=1
"""


def missing_programs():
    """Names of programs that a cluster needs and that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=_path()) is None]


def wait_for(condition, seconds, what, details=lambda: ""):
    """Wait until `condition` gives something true; return it, or raise with `what` and `details`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}\n{details()}")
        time.sleep(0.2)
    return found


class Cluster:
    """Start, stop and disturb the cluster below `root`; any process may use it by its directory."""

    def __init__(self, root):
        self.root = Path(root)
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))
        }
        self.env |= {
            "SLURM_CONF": str(self.root / "slurm.conf"),
            "PATH": f"{self.root}/bin:{Path(sys.executable).parent}:{_path()}",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, *command, check=True):
        """Run one of Slurm's commands; return what it printed. Another test may just restart the daemon it asks."""
        for _ in range(60):
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
            if not (check and done.returncode and any(text in done.stderr for text in AWAY)):
                break
            time.sleep(1)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
        return done.stdout

    # The whole cluster

    def start(self):
        """Write the configuration, start all daemons and wait until all nodes are idle."""
        self._write_configuration()
        self._start_accounting()
        self.start_controller()
        for node in (*NODES, *FRAIL_NODES):
            self.start_node(node)
        wait_for(lambda: self._idle_nodes() == {*NODES, *FRAIL_NODES}, 60, "the nodes to come up", self._logs)

    def stop(self):
        """Cancel all jobs, stop all daemons, and kill what is left of jobs that outlived theirs."""
        for command in (["scancel", "--full", "--signal=KILL", "--state=running"], ["scancel", "--state=pending"]):
            self.run(*command, check=False)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not self.run("squeue", "--noheader", check=False).strip(), 10, "jobs to end")
        for name in (*NODES, *FRAIL_NODES, "slurmctld", "slurmdbd", "mariadbd"):
            self._stop(name)
        for pid in _processes():
            if self._job_of(pid):
                _kill(pid)

    # Its parts

    def start_controller(self):
        self._spawn("slurmctld", "slurmctld", "-D", "-f", self.env["SLURM_CONF"])

    def stop_controller(self):
        self._stop("slurmctld")

    def start_accounting_daemon(self):
        self._spawn("slurmdbd", "slurmdbd", "-D")
        wait_for(lambda: _listens(self._value("slurmdbd.conf", "DbdPort")), 30, "slurmdbd", self._logs)

    def stop_accounting_daemon(self):
        self._stop("slurmdbd")

    def start_node(self, node):
        self._spawn(node, "slurmd", "-D", "-f", self.env["SLURM_CONF"], "-N", node)

    def close(self, partition):
        """Let jobs of a partition queue and none start."""
        self.run("scontrol", "update", f"PartitionName={partition}", "State=DOWN")

    def open(self, partition):
        self.run("scontrol", "update", f"PartitionName={partition}", "State=UP")

    def cut_power(self, node):
        """Kill a node's daemon and everything that runs on it, as a power cut does."""
        jobs = self.run("squeue", "--noheader", "--format=%i", f"--nodelist={node}").split()
        _kill(self._pid(node))
        running = [pid for pid in _processes() if self._job_of(pid) in jobs]
        for pid in {_parent(pid) for pid in running}:
            if _name(pid) == "slurmstepd":
                _kill(pid)
        for pid in running:
            _kill(pid)

    def jobs(self):
        """Every job that accounting knows, oldest first: dictionaries with id, state, node, comment, times..."""
        fields = ["JobIDRaw", "JobName", "State", "ExitCode", "NodeList", "Partition"]
        fields += ["Submit", "Start", "End", "ReqMem", "TimelimitRaw", "Comment"]
        options = [
            "-X",
            "--noheader",
            "--parsable2",
            "--duplicates",
            "--starttime=now-1days",
            "--format=" + ",".join(fields),
        ]
        lines = self.run("sacct", *options).splitlines()
        return [dict(zip(fields, line.split("|"), strict=True)) for line in lines]

    def jobs_of(self, run):
        """The jobs that one snakemake submitted (all bear one name), when accounting has seen their end."""

        def ended():
            jobs = [job for job in self.jobs() if job["JobName"] in self.names_of(run)]
            return None if any(job["State"] in ("PENDING", "RUNNING") for job in jobs) else jobs

        return wait_for(ended, 60, "accounting")

    def running(self, run):
        """Ids of the jobs of a snakemake that wait or run."""
        names = ",".join(self.names_of(run)) or "none"
        return self.run("squeue", "--noheader", f"--name={names}", "--format=%i").split()

    def names_of(self, run):
        return re.findall(r"SLURM run ID: (\S+)", run.text)

    def wait_for_jobs(self, run, state, number=1, seconds=90):
        """Wait until a snakemake has `number` jobs in a state of squeue; return their ids."""

        def ids():
            names = ",".join(self.names_of(run)) or "none"
            found = self.run("squeue", "--noheader", f"--name={names}", f"--states={state}", "--format=%i", check=False)
            return found.split() if len(found.split()) >= number else None

        return wait_for(ids, seconds, f"{number} jobs {state}", lambda: run.text)

    def _job_of(self, pid):
        """Slurm's number of the job that a process belongs to, if it is a job of this cluster."""
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            if f"SLURM_CONF={self.env['SLURM_CONF']}" in environment:
                return next((line.split("=")[1] for line in environment if line.startswith("SLURM_JOB_ID=")), None)
        return None

    # How it is made

    def _write_configuration(self):
        for name in ("state", "log", "pids", "bin", *(f"spool/{node}" for node in (*NODES, *FRAIL_NODES))):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(3 + len(NODES) + len(FRAIL_NODES))
        values = {
            "root": self.root,
            "host": host,
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "controller_port": ports.pop(),
            "accounting_port": ports.pop(),
            "database_port": ports.pop(),
            "steady": ",".join(NODES),
            "frail": ",".join(FRAIL_NODES),
        }
        values["nodes"] = "\n".join(
            f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={ports.pop()} CPUs={CPUS} "
            f"RealMemory={MEMORY_MB} State=UNKNOWN"
            for node in (*NODES, *FRAIL_NODES)
        )
        values["gates"] = "\n".join(
            f"PartitionName={name} Nodes={values['steady']} MaxTime=INFINITE DefaultTime=60 DefMemPerCPU=100 State=UP"
            for name in GATES
        )
        (self.root / "slurm.conf").write_text(SLURM_CONF.format(**values))
        (self.root / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
        (self.root / "slurmdbd.conf").chmod(0o600)
        (self.root / "cgroup.conf").write_text("")
        # Snakemake's job step drops all SLURM_* variables, SLURM_CONF with them, before it calls srun.
        shim = self.root / "bin" / "srun"
        shim.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.env["SLURM_CONF"]} exec {shutil.which("srun", path=_path())} "$@"\n'
        )
        shim.chmod(0o755)

    def _start_accounting(self):
        """Start MariaDB, make its database, start slurmdbd."""
        data, opened = self.root / "mariadb", self.root / "m.sock"
        user = pwd.getpwuid(os.getuid()).pw_name
        options = ["--no-defaults", f"--user={user}", f"--datadir={data}"]
        install = ["mariadb-install-db", *options, "--skip-test-db", "--auth-root-authentication-method=normal"]
        self.run(*install)
        port = self._value("slurmdbd.conf", "StoragePort")
        quick = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        network = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={opened}", "--skip-name-resolve"]
        self._spawn(
            "mariadbd", "mariadbd", *options, *network, *quick, "--innodb-lock-wait-timeout=900", "--skip-log-bin"
        )
        account = "create user slurm@'127.0.0.1' identified by 'slurm'; "
        account += "grant all on slurm_acct_db.* to slurm@'127.0.0.1'"
        client = ["mariadb", "--no-defaults", f"--socket={opened}", "--user=root"]
        wait_for(lambda: self._succeeds(*client, "--execute=select 1"), 60, "MariaDB", self._logs)
        self.run(*client, f"--execute={account}")
        self.start_accounting_daemon()

    def _value(self, file, name):
        lines = (self.root / file).read_text().splitlines()
        return next(line.split("=", 1)[1] for line in lines if line.startswith(f"{name}="))

    def _succeeds(self, *command):
        return subprocess.run(command, env=self.env, capture_output=True, check=False).returncode == 0

    def _idle_nodes(self):
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %t", check=False).splitlines()
        return {line.split()[0] for line in lines if line.endswith(" idle")}

    def _spawn(self, name, *command):
        """Start a daemon that outlives this process, and note its process id."""
        program = 'out=$1; shift; setsid "$@" < /dev/null >> "$out" 2>&1 & echo $!'
        log = self.root / "log" / f"{name}.out"
        shell = ["sh", "-c", program, "sh", str(log), *command]
        done = subprocess.run(shell, env=self.env, stdout=subprocess.PIPE, text=True, check=True)
        (self.root / "pids" / name).write_text(done.stdout)

    def _pid(self, name):
        path = self.root / "pids" / name
        return int(path.read_text()) if path.exists() else None

    def _stop(self, name):
        pid = self._pid(name)
        if pid is None:
            return
        _kill(pid, signal.SIGTERM)
        try:
            wait_for(lambda: not _runs(pid), 15, f"{name} to end")
        except TimeoutError:
            _kill(pid)

    def _logs(self):
        """The last lines of all logs, for messages about a cluster that does not start."""
        logs = sorted((self.root / "log").iterdir())
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-600:]}" for path in logs)


def serve(root):
    """Run a cluster until none of its users lives any more, then remove it."""
    cluster = Cluster(root)
    try:
        cluster.start()
    except Exception as error:
        (cluster.root / "failed").write_text(f"{error}")
        cluster.stop()
        raise
    (cluster.root / "ready").touch()
    while any(_runs(int(user.name)) for user in (cluster.root / "users").iterdir()):
        time.sleep(0.5)
    cluster.stop()
    shutil.rmtree(cluster.root, ignore_errors=True)


def _path():
    """PATH with the directories where Debian puts daemons."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(port))) == 0


def _processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(pid):
    """Name, state and parent of a process; empty texts when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", "", ""
    name, rest = text[text.index("(") + 1 :].rsplit(") ", 1)
    return name, *rest.split()[:2]


def _runs(pid):
    return _stat(pid)[1] not in ("", "Z")


def _name(pid):
    return _stat(pid)[0]


def _parent(pid):
    return _stat(pid)[2]


def _kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), number)


if __name__ == "__main__":
    serve(sys.argv[2])
