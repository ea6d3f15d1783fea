"""A Slurm of one node for a test: slurmctld, slurmd and munged of this user, no systemd, no cgroups, no database.

The node poses as one with GPUs of type `toy`. A GPU must be a device of its own, so harmless ones of every Linux stand
in; Slurm only counts them and sets CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "squeue", "scontrol")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
MinJobAge=3600
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:toy:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed; Debian has them in slurmctld, slurmd, slurm-client and munge."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [program for program in NEEDED if shutil.which(program, path=path) is None]


class LocalSlurm:
    """Started in `folder`, whose path must be short enough for a socket; `environment` is what its clients need."""

    def __init__(self, folder: Path, cpus: int = 4, gpus: int = 2, memory_mb: int = 256_000) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        host = platform.node().split(".")[0]
        values = {
            "host": host, "user": getpass.getuser(), "folder": folder, "ports": _free_ports(2), "cpus": cpus,
            "gpus": gpus, "memory_mb": memory_mb,
        }  # fmt: skip
        self._configuration = folder / "slurm.conf"
        self._configuration.write_text(CONFIGURATION.format(**values))
        devices = [f"NodeName={host} Name=gpu Type=toy File={device} Flags=nvidia_gpu_env" for device in DEVICES[:gpus]]
        (folder / "gres.conf").write_text("\n".join(devices) + "\n")
        self._host = host
        path = f"{folder}/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        self.environment = dict(os.environ, PATH=path, SLURM_CONF=str(self._configuration))
        self._wrap_srun()

    def start(self) -> None:
        """Start the three daemons and wait for the node; raises RuntimeError with their logs when it does not come."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        own = [
            ("key-file", "key"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("log-file", "log"),
            ("seed-file", "seed"),
        ]
        self.call("munged", "--force", *(f"--{flag}={self.folder}/munge.{end}" for flag, end in own))
        self.call("slurmctld", "-c", "-f", str(self._configuration))
        self.call("slurmd", "-f", str(self._configuration), "-N", self._host)
        deadline = time.monotonic() + 60
        while "idle" not in self.call("sinfo", "-h", "-o", "%t", check=False):
            if time.monotonic() > deadline:
                raise RuntimeError("".join(log.read_text() for log in self.folder.glob("*.log")))
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel what runs and stop the daemons."""
        self.call("scancel", "--me", check=False)
        for name in ("slurmd", "slurmctld", "munge"):
            pid = self.folder / f"{name}.pid"
            if pid.exists() and pid.read_text().strip():
                _end(int(pid.read_text()))

    def call(self, *command: str, check: bool = True) -> str:
        """What a program of Slurm prints."""
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job there was, ended ones too, as `scontrol show job` describes it, in the order of submission."""
        listed = self.call("scontrol", "--oneliner", "show", "job").splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in listed if line.startswith("JobId=")]
        return sorted(found, key=lambda job: int(job["JobId"]))

    def _wrap_srun(self) -> None:
        """The job step of the executor drops SLURM_CONF from the environment; a cluster has /etc/slurm instead."""
        real = shutil.which("srun", path=self.environment["PATH"])
        wrapper = self.folder / "bin/srun"
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self._configuration} exec {real} "$@"\n')
        wrapper.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _end(pid: int) -> None:
    """Ask a daemon to stop, and make it after five seconds."""
    for ask in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, ask)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if not _lives(pid):
                return
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    """Whether the process is there and no zombie: without an init nobody collects a daemon that has ended."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
