"""A server of another program on this machine: started, waited for, and ended with us."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType

from harness.core.errors import UsageError

HOST = "127.0.0.1"
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_SECONDS = 10.0  # to end by itself, before it is killed


def serve(command: Sequence[str], port: int, health: str, ready: Callable[[], object]) -> int:
    """Run a server until it ends or we are told to end; return the exit status.

    The server is the leader of a session of its own: it may start workers, and all of them end
    with it, whether Ctrl-C, a closed terminal or a plain ``kill`` ends us.

    Args:
        command: Starts it in the foreground, on :data:`HOST` and ``port``.
        port: Where it listens.
        health: Path that answers with status 200 once it serves: ``/health``.
        ready: Called once, when it does.

    Returns:
        The server's own status, or 128 and the number of the signal that ended us.

    Raises:
        UsageError: If the port is taken.
    """
    _check_free(port)
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in _ENDS}
    server = subprocess.Popen(command, start_new_session=True)
    try:
        told = False
        while server.poll() is None and not asked:
            if not told and _answers(port, health):
                told = True
                ready()
            _pause(server, 0.2)
    finally:
        _end(server)
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        return 128 + asked[0]
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        # As servers do: a port of a connection that was just closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"port {port} of {HOST} cannot be used: {error.strerror}. Give another --port."
            ) from error


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)  # past any proxy
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _pause(server: subprocess.Popen[bytes], seconds: float) -> None:
    """Sleep; end sooner with the server. A signal is seen after it at the latest."""
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with its workers, which outlive it where it is killed alone."""
    until = time.monotonic() + _PATIENCE_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        while time.monotonic() < until and _lives(server):
            _pause(server, 0.05)
    server.wait()


def _lives(server: subprocess.Popen[bytes]) -> bool:
    server.poll()  # takes the dead leader away, so that it does not count
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    time.sleep(0.02)
    return True
