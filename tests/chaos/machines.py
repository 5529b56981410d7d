"""Machines of a made-up network on this one: each with an address, a host name, processes, /tmp and
/dev/shm of its own.

A machine is a process in new namespaces (network, mounts, host name, processes); a pair of virtual
cables joins it to a bridge on this machine. What one writes below /tmp does not exist on another,
and the checkout's own sources are hidden, so that code which runs there has come with the job. A
machine's name points to 127.0.1.1, as Debian's installer writes it: who asks by name for an address
finds home. It ends with its first process, and that with the process of the tests, however it ends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ROOT", "Machine", "Network", "can_make_machines", "network"]

ROOT = Path(__file__).resolve().parents[2]
_HIDDEN = ("platform", "jobs", "configs", "tests", "cluster")
_TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
_NAME = re.compile(r"\b(avs(\d+)(?:n\d+)?)\b")

# The first process: the machine's folders, then nothing but collecting the processes that end.
_BOOT = """
set -e
hostname "$1"; root="$2"; size="$3"; shift 3
exec 3< "$root"
mount -t tmpfs -o size="$size" tmpfs /tmp
mount -t tmpfs -o size=512m tmpfs /dev/shm
if [ ! -d "$root" ]; then mkdir -p "$root"; mount --bind /proc/self/fd/3 "$root"; fi
exec 3<&-
for hidden in "$@"; do mount -t tmpfs -o size=4k,mode=555 tmpfs "$root/$hidden"; done
mkdir /tmp/home /tmp/work
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$(hostname)" > /tmp/hosts
mount --bind /tmp/hosts /etc/hosts
ip link set lo up
echo ready
exec > /dev/null
sleep infinity & wait
"""


def can_make_machines() -> str:
    """Why this machine cannot hold others; empty when it can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        return f"not installed: {', '.join(missing)}" if missing else "it takes root"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], check=False)
    return "" if tried.returncode == 0 else "unshare is not allowed here"


class Network:
    """A bridge of this process, with a /24 that nothing else on this machine uses."""

    def __init__(self) -> None:
        _remove_left()
        self.name = f"avs{os.getpid()}"
        self.address, self._prefix = _free_addresses()
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        self.machines: list[Machine] = []

    def add(self, name: str, *, disk_bytes: int = 2**28) -> Machine:
        """A machine that runs; ``disk_bytes``: what its /tmp holds."""
        number = len(self.machines) + 2  # .1 is the bridge
        cable = f"{self.name}n{number}"
        machine = Machine(name, f"{self._prefix}.{number}", self.name, cable, disk_bytes)
        self.machines.append(machine)
        machine.boot()
        return machine

    def remove(self) -> None:
        """End all machines and the bridge."""
        for machine in self.machines:
            machine.kill()
        _ip("link", "del", self.name)


class Machine:
    """One machine; ``kill`` is its power switch, ``boot`` starts it with an empty disk."""

    def __init__(self, name: str, address: str, bridge: str, cable: str, disk_bytes: int) -> None:
        self.name, self.address = name, address
        self._bridge, self._cable, self._disk_bytes = bridge, cable, disk_bytes
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def boot(self) -> None:
        """Switch it on: nothing runs, nothing is on its disk."""
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts"]
        command += ["--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", _BOOT, "boot"]
        command += [self.name, str(ROOT), str(self._disk_bytes), *_HIDDEN]
        # Its place: mounts below the folder of a process that may be unmounted are refused.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", f"{self.name} does not start"
        outer = self._process.pid
        self._pid = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
        self._connect()

    def _connect(self) -> None:
        peer = f"p{secrets.token_hex(4)}"
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", peer)
        _ip("link", "set", self._cable, "master", self._bridge, "up")
        _ip("link", "set", peer, "netns", str(self._pid), "name", "eth0")
        for arguments in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            self.run("ip", *arguments)

    def kill(self) -> None:
        """Switch it off: all its processes end at once, its disk is gone."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        first = Path(f"/proc/{self._pid}/ns")
        while first.exists() and "zombie" not in _state(self._pid):
            time.sleep(0.01)  # it ends after all the others
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        _ip("link", "del", self._cable, check=False)  # else it lives until the kernel gets to it

    def cut(self) -> None:
        """Pull the network cable; nobody is told."""
        _ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self._cable, "up")

    def fill_disk(self) -> None:
        """Write until nothing more fits on /tmp."""
        self.run("dd", "if=/dev/zero", "of=/tmp/ballast", "bs=1M", check=False)

    def free_disk(self) -> None:
        self.run("rm", "-f", "/tmp/ballast")

    def command(self, *words: str) -> list[str]:
        """``words`` as a command that this machine starts there, in /tmp/work."""
        enter = ["nsenter", "--target", str(self._pid), "--all", "--"]
        return [*enter, "env", "--chdir=/tmp/work", *words]

    def run(self, *words: str, check: bool = True, env: dict[str, str] | None = None) -> str:
        """Run there to the end; returns what was printed."""
        done = subprocess.run(
            self.command(*words), text=True, capture_output=True, check=False, env=env, timeout=120
        )
        assert done.returncode == 0 or not check, (
            f"{self.name}: {words}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def kill_processes(self, pattern: str) -> int:
        """SIGKILL what has ``pattern`` in its command line or title; how many there were."""
        found = self.run("pgrep", "-f", pattern, check=False).split()
        if found:
            self.run("kill", "-9", *found, check=False)
        return len(found)

    def path(self, inside: str) -> Path:
        """A file of this machine as this process sees it."""
        return Path(f"/proc/{self._pid}/root{inside}")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Removed with all machines at the end."""
    made = Network()
    try:
        yield made
    finally:
        made.remove()


def _ip(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *arguments], text=True, capture_output=True, check=False)
    assert done.returncode == 0 or not check, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _state(pid: int) -> str:
    """The state of a process; empty when there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/status").read_text().partition("State:")[2].partition("\n")[0]
    return ""


def _free_addresses() -> tuple[str, str]:
    """The bridge's address, and the first three numbers of all."""
    taken = [
        ipaddress.ip_interface(word).network
        for word in re.findall(r"inet (\S+)", _ip("-o", "-4", "addr"))
    ]
    for attempt in range(256):
        number = (os.getpid() + 97 * attempt) % 25600
        prefix = f"10.{100 + number // 256}.{number % 256}"
        wanted = ipaddress.ip_network(f"{prefix}.0/24")
        if not any(wanted.overlaps(each) for each in taken):
            return f"{prefix}.1", prefix
    raise AssertionError("no private /24 is free")


def _remove_left() -> None:
    """Bridges and cables of test processes that were killed; their machines ended with them."""
    for name, pid in set(_NAME.findall(_ip("-o", "link", "show"))):
        if not Path(f"/proc/{pid}").exists():
            _ip("link", "del", name, check=False)
