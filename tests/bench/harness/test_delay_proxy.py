"""A proxy that is late and loses nothing."""

from __future__ import annotations

import socket
import threading
import time
from statistics import median

from bench.harness.delay_proxy import DelayProxy


def test_a_proxy_is_late_and_loses_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, DelayProxy(listening.getsockname()[1], 0.02) as proxy:
        proxy.open()
        near = socket.create_connection(("127.0.0.1", proxy.port))
        far = listening.accept()[0]
        near.settimeout(30)
        far.settimeout(30)

        def echo() -> None:
            while data := far.recv(65536):
                far.sendall(data)
            far.close()

        threading.Thread(target=echo, daemon=True).start()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            near.sendall(b"ping")
            assert near.recv(4) == b"ping"
            times.append(time.perf_counter() - started)
        assert 0.04 <= median(times) < 0.2
        # Much at once is as late as little: it is not the throughput that is limited.
        much = bytes(range(256)) * 8192
        sender = threading.Thread(target=near.sendall, args=(much,))
        sender.start()
        back = b""
        while len(back) < len(much):
            back += near.recv(65536)
        sender.join()
        assert back == much
        near.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""
        near.close()
