# SPDX-License-Identifier: Apache-2.0
"""The keeper: a process of its own that starts everything its owner starts, and clears up when the owner is gone.

However the owner ends, SIGKILL included, the keeper lives long enough to kill every process that came of it and to
remove every path that was to go. It adopts and reaps orphans, so a child that forks twice does not get away. Being
small and single-threaded it can fork without the traps of a threaded Python, and faster than one with much memory.

This file runs by itself, without the rest of kvtest and without site packages, and speaks JSON over a socket that
keeps messages apart, with descriptors beside them (unix(7), SCM_RIGHTS)::

    {"start": 1, "argv": […], "environment": {…}, "directory": "/", "descriptors": [0, 1, 2, 9]}
        and as many descriptors; of the environment only what differs from the keeper's, null for what is not in it;
        a descriptor that becomes number -1 is of a mount namespace, in which the program runs; with no argv, there is
        a process that does nothing but have a mount namespace of its own
        -> {"started": 1, "pid": 4711} with its pidfd, or {"failed": 1, "errno": 2}, and later {"ended": 1, "status": 0}
    {"adopt": 1, "pid": 4712}      tell of an orphan that has become the keeper's child as if it had been started
    {"remove": PATH}      remove it when the owner is gone, and what else it says goes with it (see OWNED)
    {"keep": PATH}        not any more
    {"heirs": "NAME=VALUE"}     end the processes then that have this in their environment
    {"remove_cgroups": WORD}    remove the cgroups then whose names begin with it, of every hierarchy
    {"keep_cgroups": WORD}      not any more
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
from typing import Any

MESSAGE_LIMIT = 1 << 17  # well below what a socket buffer takes at once
_FIRST_DESCRIPTOR = 3  # that is no standard stream
DESCRIPTOR_LIMIT = 250  # SCM_MAX_FD is 253
IN_NAMESPACE = -1  # in place of a descriptor's number: the mount namespace to be in
OWNED = ".kvtest-owned"
"""Of a directory, the file that says what else goes with it: in each line JSON, a shell pattern of paths as ``paths``,
or as ``sockets_in`` one of files each of which holds the address of a socket, such as ``unix:///run/x``."""
_CGROUPS = "/sys/fs/cgroup"
_LONGEST_ADDRESS = 4096
_ROUNDS = 100  # of looking for processes that others fork while they are being killed
_MNT_DETACH = 2
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_SLAVE, _MS_SHARED = 0x4000, 0x80000, 0x100000  # mount(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class Keeper:
    """Serves one owner.

    Args:
        owner: The owner's socket.
        owner_pid: The owner.
    """

    def __init__(self, owner: socket.socket, owner_pid: int) -> None:
        self._owner = owner
        self._owner_pidfd = -1  # stays so if the owner is gone already; what it said before is waiting
        with contextlib.suppress(ProcessLookupError):
            self._owner_pidfd = os.pidfd_open(owner_pid)
        if os.getppid() != owner_pid:  # gone, and its number may be another's
            self._owner_pidfd = -1
        self._running: dict[int, int] = {}  # from process IDs to the owner's numbers
        self._doomed: dict[str, None] = {}
        self._doomed_cgroups: set[str] = set()
        self._heirs = b""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._woken, waker = socket.socketpair()
        self._woken.setblocking(False)
        waker.setblocking(False)
        self._waker = waker
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Serve until the owner ends or closes its socket, then clear up."""
        poll = select.poll()
        for descriptor in (self._owner.fileno(), self._owner_pidfd, self._woken.fileno()):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        ended = self._owner_pidfd < 0
        if ended:
            self._take_all()
        while not ended:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._woken.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    while self._woken.recv(4096):
                        pass
                self._reap()
            # What the owner said before it died still counts.
            ended = self._owner_pidfd in ready
            if self._owner.fileno() in ready:
                ended |= self._take_all()
        self._end_all()
        if self._heirs:
            end_heirs(self._heirs)
        for path in self._doomed:
            remove(path)
        if self._doomed_cgroups:
            remove_cgroups(tuple(self._doomed_cgroups))

    def _take_all(self) -> bool:
        """Take the owner's messages; return whether they have come to their end."""
        while True:
            try:
                data, descriptors = receive(self._owner, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            if not data:
                return True
            self._take(json.loads(data), descriptors)

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "start" in message:
            self._start(message, descriptors)
        elif "adopt" in message:
            self._adopt(message["adopt"], message["pid"])
        elif "remove" in message:
            self._doomed[message["remove"]] = None
        elif "keep" in message:
            self._doomed.pop(message["keep"], None)
        elif "heirs" in message:
            self._heirs = os.fsencode(message["heirs"])
        elif "remove_cgroups" in message:
            self._doomed_cgroups.add(message["remove_cgroups"])
        elif "keep_cgroups" in message:
            self._doomed_cgroups.discard(message["keep_cgroups"])

    # --- Processes

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> None:
        number = message["start"]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            _become(message, descriptors, writer)
        os.close(writer)
        for descriptor in descriptors:
            os.close(descriptor)
        failure = os.read(reader, 16)  # ends when the program runs
        os.close(reader)
        if failure:
            os.waitpid(child, 0)
            self._tell({"failed": number, "errno": int(failure)})
            return
        self._running[child] = number
        pidfd = os.pidfd_open(child)
        self._tell({"started": number, "pid": child}, pidfd)
        os.close(pidfd)

    def _adopt(self, number: int, pid: int) -> None:
        try:
            # Nobody but us reaps it, so its number stays its own from here to the pidfd.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._tell({"failed": number, "errno": error.errno})
            return
        self._running[pid] = number
        self._tell({"started": number, "pid": pid}, pidfd)
        os.close(pidfd)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                self._tell({"ended": self._running.pop(pid), "status": os.waitstatus_to_exitcode(status)})

    def _end_all(self) -> None:
        """Kill until nobody is left: what a child leaves behind becomes our child, and its turn comes."""
        while True:
            for child in _children():
                end(child)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def _tell(self, message: dict[str, Any], *descriptors: int) -> None:
        with contextlib.suppress(OSError):  # the owner may be gone, which is noticed elsewhere
            socket.send_fds(self._owner, [json.dumps(message).encode()], list(descriptors))


def receive(stream: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return a message and the descriptors that came with it (``socket.recv_fds`` of Python 3.11 ignores flags)."""
    space = socket.CMSG_SPACE(DESCRIPTOR_LIMIT * array.array("i").itemsize)
    data, ancillary, _, _ = stream.recvmsg(MESSAGE_LIMIT, space, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content)
    return data, list(descriptors)


def _become(message: dict[str, Any], descriptors: list[int], failures: int) -> None:
    """Be a program; never returns. The child of a process with one thread may do what it likes before it execs."""
    try:
        keeper = os.getppid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:  # it died before the signal was asked for
            os._exit(1)
        os.setsid()  # a Ctrl-C in the terminal is for the owner, who ends its children
        wanted = message["descriptors"]
        # Out of the way first: one of them may have the number that another is to get.
        first = max([*wanted, failures, 2]) + 1
        held = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, first) for descriptor in descriptors]
        failures = fcntl.fcntl(failures, fcntl.F_DUPFD_CLOEXEC, first)
        directory = message["directory"] or os.getcwd()
        for descriptor, number in zip(held, wanted, strict=True):
            if number == IN_NAMESPACE:
                _checked(_libc.setns(descriptor, _CLONE_NEWNS))
            else:
                os.dup2(descriptor, number)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if not message["argv"]:
            _have_mounts(failures)
        os.chdir(directory)  # which setns(2) has changed
        environment = {**os.environ, **message["environment"]}
        present = {name: value for name, value in environment.items() if value is not None}
        os.execvpe(message["argv"][0], message["argv"], present)
    except OSError as error:
        os.write(failures, str(error.errno).encode())
    except ValueError:  # a null byte in an argument
        os.write(failures, str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def _have_mounts(failures: int) -> None:
    """Have a mount namespace until we are killed; never returns.

    What is mounted in it is not seen on the host, but elsewhere it spreads as it does there, where all is shared
    (mount_namespaces(7)): runtimes count on that.
    """
    _checked(_libc.unshare(_CLONE_NEWNS))
    for propagation in (_MS_SLAVE, _MS_SHARED):
        _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | propagation), None))
    os.closerange(_FIRST_DESCRIPTOR, failures)
    os.close(failures)
    while True:
        signal.pause()


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "")


def _children() -> list[int]:
    """Return our children (proc(5), /proc/PID/task/TID/children)."""
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
        return [int(word) for word in stream.read().split()]


def end(pid: int) -> None:
    """Kill a process, also one that is frozen: with cgroups v1 that does not end before it is thawed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):  # it is gone, or there is no such hierarchy
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
            found = [line.rstrip("\n").split(":", 2) for line in stream]
        for _, controllers, path in found:
            if "freezer" in controllers.split(",") and path != "/":
                with open(f"/sys/fs/cgroup/freezer{path}/freezer.state", "w", encoding="ascii") as state:
                    state.write("THAWED")


def end_heirs(entry: bytes) -> None:
    """Kill the processes that have an entry in their environment, such as what a test has started by itself.

    One that is killed is not waited for: it is somebody else's child.
    """
    for _ in range(_ROUNDS):
        found = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        heirs = [pid for pid in found if entry in environment_of(pid)]
        for pid in heirs:
            end(pid)
        if not heirs:
            return


def environment_of(pid: int) -> list[bytes]:
    """Return a process's environment; a zombie has none (proc(5), /proc/PID/environ)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as stream:
        return stream.read().split(b"\0")
    return []


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, as far as that is possible; none need be there.

    What goes with a directory, as that says itself, is removed before it.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        for owned in owned_by(path):
            _remove(owned)
    _remove(path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        _unmount_below(path)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def owned_by(directory: str) -> list[str]:
    """Return what is there of what a directory says goes with it; nothing for most directories."""
    try:
        with open(os.path.join(directory, OWNED), encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (OSError, ValueError):
        return []
    from glob import glob  # which nobody else here needs

    found: dict[str, None] = {}
    for line in lines:
        with contextlib.suppress(ValueError):  # of one that was being written
            told = json.loads(line)
            found.update(dict.fromkeys(glob(told.get("paths", ""))))
            for file in glob(told.get("sockets_in", "")):
                found.update(dict.fromkeys(_sockets_in(file)))
    return list(found)


def _sockets_in(file: str) -> list[str]:
    """Return the socket that a file names, if that is one."""
    with contextlib.suppress(OSError, ValueError):
        with open(file, encoding="utf-8") as stream:
            path = stream.read(_LONGEST_ADDRESS).strip().removeprefix("unix://")
        if path.startswith("/") and stat.S_ISSOCK(os.lstat(path).st_mode):
            return [path]
    return []


def _unmount_below(path: str) -> None:
    """Take away what is mounted in a directory, such as a container's root by a shim that was killed (umount2(2))."""
    with open("/proc/self/mountinfo", "rb") as stream:
        points = [line.split(b" ")[4] for line in stream]
    for point in reversed(points):  # what was mounted last goes first
        if point.startswith(os.fsencode(path) + b"/"):
            _libc.umount2(point, _MNT_DETACH)


def remove_cgroups(words: tuple[str, ...]) -> None:
    """Remove the cgroups whose names begin with a word, as far as nobody is in them (cgroups(7))."""
    for directory, names, _ in os.walk(_CGROUPS, topdown=False):
        for name in names:
            if name.startswith(words):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{directory}/{name}")


def main() -> None:
    """Serve the owner whose socket and process ID are on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, owner = map(int, sys.argv[1:3])
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as stream:
        Keeper(stream, owner).serve()


if __name__ == "__main__":
    main()
