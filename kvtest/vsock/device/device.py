# SPDX-License-Identifier: Apache-2.0
"""The device: one thread around an epoll, between the guest's queues and the host's sockets."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from kvtest.errors import DeviceError, InternalError, TransportError
from kvtest.vsock.device import vhost_user
from kvtest.vsock.device.faults import DeviceFaultError
from kvtest.vsock.device.rings import RECEIVE, Rings
from kvtest.vsock.device.switch import Switch

_log = logging.getLogger(__name__)
_BACKLOG = 256


class VsockDevice:
    """A vhost-user vsock device for one guest.

    The VMM connects to ``vhost_socket``; host processes connect to ``hybrid_path``.

    Args:
        vhost_socket: The Unix socket for the VMM.
        hybrid_path: The Unix socket for host processes.
        guest_cid: The guest's address.
    """

    def __init__(self, vhost_socket: Path, hybrid_path: Path, guest_cid: int = 3) -> None:
        self.vhost_path = vhost_socket
        self.hybrid_path = hybrid_path
        self.guest_cid = guest_cid
        self._fault: DeviceError | InternalError | None = None
        self._paths = (vhost_socket, hybrid_path)
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # for when there are no descriptors left
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._front_end: socket.socket | None = None
        self._rings = Rings(guest_cid, self._queue_changed)
        self._switch = Switch(guest_cid, hybrid_path, self._watch)
        self._listeners: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="kvtest-vsock", daemon=True)

    @property
    def fault(self) -> DeviceError | InternalError | None:
        """The first rule that the guest or its VMM broke, or our own failure; the device has not served it since."""
        return self._fault

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._switch.streams)

    # --- Life

    def start(self) -> None:
        """Listen for the VMM and for host processes.

        Raises:
            TransportError: One of the sockets cannot be made.
        """
        for path, accept in zip(self._paths, (self._accept_front_end, self._accept_client), strict=True):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._listeners.append(listener)
            try:
                listener.bind(str(path))
                listener.listen(_BACKLOG)
            except OSError as error:
                raise TransportError(f"could not listen on {path}: {error.strerror}") from error
            self._watch(listener.fileno(), select.EPOLLIN, accept)
        self._watch(self._wake, select.EPOLLIN, lambda _events: None)
        self._thread.start()

    def close(self) -> None:
        """End every connection and give everything back."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._drop_front_end()
        self._switch.close_all()  # who has come since the guest has gone was not greeted yet
        for listener in self._listeners:
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._epoll.close()
        os.close(self._wake)
        os.close(self._spare)

    def __enter__(self) -> VsockDevice:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- Event loop

    def _watch(self, descriptor: int, events: int, callback: Callable[[int], None] | None = None) -> None:
        """Wait for events on a descriptor; without a callback, for others than before; without either, for none."""
        if callback is not None:
            self._callbacks[descriptor] = callback
            self._epoll.register(descriptor, events)
        elif events >= 0:
            self._epoll.modify(descriptor, events)
        elif self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _run(self) -> None:
        while not self._closing:
            for descriptor, events in self._epoll.poll():
                callback = self._callbacks.get(descriptor)
                if callback is not None:  # an earlier callback of this round may have closed it
                    try:
                        callback(events)
                    except DeviceFaultError as error:
                        self._record(error)
                    except Exception as error:  # a mistake of ours must not look like a guest that hangs
                        _log.exception("the vsock device failed")
                        message = f"the vsock device failed: {type(error).__name__}: {error}"
                        self._record(InternalError(message, traceback.format_exc()))

    def _record(self, error: DeviceError | InternalError) -> None:
        """Remember a fault and serve this guest no more."""
        if self._fault is None:
            # Its frames hold views of guest memory, which could not be unmapped.
            self._fault = error.with_traceback(None)
        self._drop_front_end()

    # --- VMM

    def _accept_front_end(self, _events: int) -> None:
        connection, _ = self._listeners[0].accept()
        connection.setblocking(True)
        self._front_end = connection
        self._switch.attached = True
        self._watch(connection.fileno(), select.EPOLLIN, self._read_front_end)
        self._watch(self._listeners[0].fileno(), 0)  # one guest at a time: another waits

    def _read_front_end(self, _events: int) -> None:
        assert self._front_end is not None
        try:
            message = vhost_user.receive(self._front_end)
        except ConnectionResetError:
            message = None
        if message is None:
            self._drop_front_end()
            return
        try:
            payload = self._rings.handle(message)
            if payload is None and message.flags & vhost_user.NEED_REPLY:
                payload = bytes(8)
            if payload is not None:
                vhost_user.reply(self._front_end, message, payload)
        except (BrokenPipeError, ConnectionResetError):
            self._drop_front_end()
        finally:
            message.close()

    def _drop_front_end(self) -> None:
        if self._front_end is None:
            return
        self._switch.attached = False
        self._switch.close_all()
        self._rings.close()
        self._watch(self._front_end.fileno(), -1)
        self._front_end.close()
        self._front_end = None
        self._watch(self._listeners[0].fileno(), select.EPOLLIN)

    def _queue_changed(self, index: int) -> None:
        ring = self._rings.rings[index]
        running = ring.queue is not None
        if index == RECEIVE:
            self._switch.receive_ring = ring if running else None
        else:
            self._switch.transmit_ring = ring if running else None
        if running:
            self._watch(ring.kick, select.EPOLLIN, self._kicked)
            os.eventfd_write(ring.kick, 1)  # there may be buffers already
        elif ring.kick >= 0:
            self._watch(ring.kick, -1)

    def _kicked(self, _events: int) -> None:
        for ring in self._rings.rings:
            if ring.kick >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(ring.kick)
        self._switch.run()

    # --- Host processes

    def _accept_client(self, _events: int) -> None:
        try:
            connection, _ = self._listeners[1].accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # It would stay in the queue and wake us over and over, so it is turned away with what is put by.
            os.close(self._spare)
            with contextlib.suppress(OSError):
                self._listeners[1].accept()[0].close()
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            return
        connection.setblocking(False)
        self._switch.greet(connection)
