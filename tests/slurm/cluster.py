"""A real Slurm of one node for tests: on loopback, without systemd, everything under one folder.

``python tests/slurm/cluster.py install`` installs Debian's packages (as root); ``start DIR`` and ``stop DIR`` are for
use by hand: ``start`` prints the SLURM_CONF that clients need. Tests use :func:`cluster`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Debian's names, and a program of each.
PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "sbatch",
    "slurmdbd": "slurmdbd",
    "munge": "munged",
    "mariadb-server-core": "mariadbd",
}
#: Where daemons lie, which the PATH of a user may lack.
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

# submitit asks sacct for the state of a job that leaves no result: without slurmdbd it would wait for ever. A job that
# is queued again waits cred_expire seconds. Jobs of "urgent" push those of "debug" back into the queue: they get the
# signal that they asked for, then GraceTime seconds. OverMemoryKill needs no cgroups.
SLURM = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database}
AccountingStoragePass={folder}/munge/socket
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
JobRequeue=1
ReturnToService=2
MinJobAge=600
KillWait=5
InactiveLimit=0
DefMemPerCPU=1500
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=debug Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=15 MaxTime=02:00:00 State=UP
PartitionName=urgent Nodes=ALL Default=NO PriorityTier=10 PreemptMode=OFF GraceTime=0 MaxTime=02:00:00 State=UP
NodeName=localhost NodeHostname=localhost NodeAddr=127.0.0.1 Port={node} CPUs={cpus} RealMemory={memory} State=UNKNOWN
"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={database}
CommunicationParameters=NoInAddrAny
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm
"""
#: Daemons, by the files with their process ids, in the order in which they are stopped.
DAEMONS = ("slurmd.pid", "slurmctld.pid", "slurmdbd.pid", "sql/sql.pid", "munge/munged.pid")


def missing() -> list[str]:
    """Packages that are not installed."""
    return [package for package, program in PACKAGES.items() if shutil.which(program, path=SEARCH) is None]


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if sys.platform != "linux":
        return "Slurm runs on Linux"
    if os.getuid() != 0:
        return "its daemons are started as root here; run make test-slurm as root, in a container for example"
    if missing():
        return f"not installed: {' '.join(missing())}; make test-slurm installs them from Debian's or Ubuntu's packages"
    return None


def install() -> None:
    """Install what is missing, as root on Debian or Ubuntu."""
    packages = missing()
    if not packages and why_not() is None:
        return
    if not packages:
        sys.exit(why_not())
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"not installed: {' '.join(packages)}; they can be installed by root with apt-get alone")
    print(f"Installing {' '.join(packages)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    # The packages' own daemons are not to be started: this folder's are.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        subprocess.run([*quiet, "update"], check=False, env=environment)  # an older list of packages may do
        done = subprocess.run(
            [*quiet, "install", "--yes", "--no-install-recommends", *packages],
            check=False,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
    finally:
        if ours:
            policy.unlink()
    if done.returncode != 0 or missing():
        sys.exit(f"apt-get could not install {' '.join(packages)}")


def start(folder: Path) -> Path:
    """Start the daemons under ``folder`` and wait until a job could run.

    Args:
        folder: short (Unix sockets), and every parent of it may be entered by everybody, or munge refuses it.

    Returns:
        The file for SLURM_CONF.
    """
    for part in ("munge", "state", "spool", "sql/data"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for part in (folder, folder / "munge"):
        part.chmod(0o711)
    (folder / "sql").chmod(0o700)
    controller, database, node = _free_ports(3)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    values = {
        "folder": folder,
        "user": "root",
        "controller": controller,
        "database": database,
        "node": node,
        "cpus": os.cpu_count(),
        "memory": memory - 1000,
    }
    conf = folder / "slurm.conf"
    conf.write_text(SLURM.format(**values))
    (folder / "slurmdbd.conf").touch(0o600)
    (folder / "slurmdbd.conf").write_text(DATABASE.format(**values))
    socket_of_database = folder / "sql" / "socket"
    environment = os.environ | {
        "SLURM_CONF": str(conf),
        "MYSQL_UNIX_PORT": str(socket_of_database),
        "PATH": SEARCH,
    }
    key = folder / "munge" / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    munge = {"socket": "socket", "key-file": "key", "pid-file": "munged.pid", "log-file": "log", "seed-file": "seed"}
    _run(["munged", *(f"--{name}={folder}/munge/{file}" for name, file in munge.items())], environment)
    with (folder / "sql" / "out").open("wb") as out:
        subprocess.Popen(
            [
                *("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/sql/data", "--skip-grant-tables"),
                *("--skip-networking", f"--socket={socket_of_database}", f"--pid-file={folder}/sql/sql.pid"),
                *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--performance-schema=OFF"),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    _wait("mariadbd", socket_of_database.exists)
    _run(["slurmdbd"], environment)
    _wait("slurmdbd", lambda: _answers(["sacctmgr", "-n", "show", "cluster"], environment))
    _run(["sacctmgr", "-i", "-Q", "add", "cluster", "test"], environment, check=False)
    _run(["slurmctld", "-c", "-f", str(conf)], environment)
    _run(["slurmd", "-f", str(conf), "-N", "localhost"], environment)
    _wait("the node", lambda: _answers(["sinfo", "-h", "-p", "debug", "-o", "%T"], environment) == "idle")
    return conf


def stop(folder: Path) -> None:
    """Cancel what runs, and end the daemons of ``folder``, by their process ids."""
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", "--user=root"], env=environment, timeout=10, capture_output=True, check=False)
        _wait("jobs", lambda: _answers(["squeue", "-h"], environment) == "", fails=False)
    for name in DAEMONS:
        file = folder / name
        with suppress(OSError, ValueError):
            number = int(file.read_text())
            # The file may be older than a process of this number.
            command = Path(f"/proc/{number}/cmdline").read_bytes() + Path(f"/proc/{number}/environ").read_bytes()
            if str(folder).encode() in command:
                os.kill(number, signal.SIGTERM)
                _wait(name, lambda number=number: _ended(number), fails=False)


def _ended(number: int) -> bool:
    with suppress(ChildProcessError):  # of a process that is not this one's
        os.waitpid(number, os.WNOHANG)
    return not Path(f"/proc/{number}").exists()


@contextmanager
def cluster() -> Iterator[Path]:
    """A cluster while the body runs; SLURM_CONF names it, also to what the body starts."""
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    before = os.environ.get("SLURM_CONF")
    try:
        os.environ["SLURM_CONF"] = str(start(folder))
        yield folder
    finally:
        stop(folder)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _run(command: list[str], environment: dict[str, str], check: bool = True) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command[0]} does not start: {done.stderr or done.stdout}")


def _answers(command: list[str], environment: dict[str, str]) -> str | None:
    """What a client prints; None where it fails."""
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _wait(what: str, ready: Callable[[], object], seconds: float = 30.0, fails: bool = True) -> None:
    end = time.monotonic() + seconds
    while (answer := ready()) in (None, False):
        if time.monotonic() > end:
            if fails:
                raise RuntimeError(f"waited {seconds:.0f} s for {what}; its log is in the cluster's folder")
            return
        time.sleep(0.1)
    del answer


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install"]:
            install()
        case ["start", folder]:
            print(f"export SLURM_CONF={start(Path(folder).resolve())}")
        case ["stop", folder]:
            stop(Path(folder).resolve())
        case _:
            sys.exit("usage: cluster.py install | start DIR | stop DIR")
