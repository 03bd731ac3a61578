"""A TCP forwarder that holds back or delays what passes between a back and its lead."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from queue import SimpleQueue
from typing import Self


class DelayProxy:
    """A TCP forwarder between a back and its lead.

    While closed, it accepts connections but forwards nothing. So a back can load first, and join at an exact moment.
    delay: seconds by which every byte is late, in each direction: half a round trip. Throughput has no limit.
    """

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self._target = port
        self._delay = delay
        self._open = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._open.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        for s in (near, far):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets += [near, far]
        pump = self._late if self._delay else self._pump
        threading.Thread(target=pump, args=(near, far), daemon=True).start()
        pump(far, near)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for s in (source, sink):
                s.close()

    def _late(self, source: socket.socket, sink: socket.socket) -> None:
        """Forwards late: a queue holds the bytes on their way, each with its time of arrival."""
        on_the_way: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        threading.Thread(target=self._deliver, args=(on_the_way, sink), daemon=True).start()
        data = b"..."
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            on_the_way.put((time.monotonic() + self._delay, data))

    @staticmethod
    def _deliver(on_the_way: SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        try:
            while True:
                due, data = on_the_way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            # Closing alone does not wake the thread that reads from this socket.
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
            sink.close()

    def close(self) -> None:
        for s in self._sockets:
            s.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        self.close()


def delayed(port: int, delay: float) -> DelayProxy:
    """A proxy that is open, and makes everything late."""
    proxy = DelayProxy(port, delay)
    proxy.open()
    return proxy
