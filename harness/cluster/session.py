"""A connection to Ray: a cluster that others started, or a local one for the time of a study."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.cluster.environment import prepare
from harness.core.errors import UsageError
from harness.study import Resources

logger = logging.getLogger(__name__)

MIB = 2**20
REACH_SECONDS = 3.0
ANSWER_SECONDS = 15.0
NODE_SECONDS = 60.0  # for a node's first process to start and look
SEEN_SECONDS = 3.0
HOW_TO_START = (
    "Start one with 'ray start --head' and give its address (HOST:6379, or 'auto' on one of its "
    "machines); or give no address, which uses this machine alone."
)


@contextmanager
def session(
    address: str | None = None, cpus: int | None = None, gpus: float | None = None
) -> Iterator[None]:
    """Connect to Ray, or start a local one that listens on loopback only, and leave it again.

    Meanwhile SIGTERM acts like Ctrl-C.
    A Ray that this process is connected to already is used as it is, and left running.

    Args:
        address: ``HOST:PORT`` of a cluster, ``auto`` for the one this machine is part of, or None
            for a local Ray (inside a Ray job: for the cluster that runs it).
        cpus, gpus: What a local Ray may use; None: all that the machine has.

    Raises:
        UsageError: If the address cannot be reached, or a size is given for a cluster that others
            sized.
    """
    if not address and os.environ.get("RAY_ADDRESS"):
        address = "auto"  # Ray looks there first
    address = address or None
    if address is not None:
        _reach(address)
    prepare(local=address is None)
    import ray  # only now: it reads the environment while it is imported

    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        settings |= {
            "address": "local",
            "num_cpus": cpus,
            "num_gpus": gpus,
            "include_dashboard": False,
            "object_store_memory": _object_store_bytes(),
        }
    else:
        if cpus is not None or gpus is not None:
            raise UsageError(
                f"Ray at {address!r} has the CPUs and GPUs that it was started with; "
                f"cpus={cpus} and gpus={gpus} are for a local Ray, without an address."
            )
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job's cluster has let it in already
            _rehearse(address)
        settings["address"] = address
    ray.init(**settings)
    try:
        with _terminated_like_ctrl_c():
            yield
    finally:
        ray.shutdown()


def require(resources: Resources) -> None:
    """Check that some node has what one piece of work asks for: it would wait for ever otherwise.

    Raises:
        UsageError: If none has; names both numbers.
    """
    import ray

    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    sizes = [(int(n.get("CPU", 0)), float(n.get("GPU", 0))) for n in nodes]
    if not any(c >= resources.cpus and g >= resources.gpus for c, g in sizes):
        largest = " or ".join(f"{c} CPUs and {g:g} GPUs" for c, g in sorted(set(sizes)))
        raise UsageError(
            f"one piece of work asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs "
            f"(resources in a study, or --device cuda); the nodes of this Ray have {largest}."
        )


def require_shared(folders: Mapping[str, Path]) -> None:
    """Check that every node sees the folders through which work is handed on, and may write there.

    A file is written here and looked for on each other node that can run work.

    Args:
        folders: By what to call them; absolute.

    Raises:
        UsageError: If one does not; names folder and node.
    """
    others = _other_nodes()
    if not others or not folders:
        return
    with ExitStack() as probes:
        written = {what: probes.enter_context(_probe(what, f)) for what, f in folders.items()}
        for node, trouble in _ask(others, lacking, written):
            raise UsageError(
                f"{trouble} on node {node}. Runs and the store are handed on through folders that "
                "all nodes share: give --out and --store on shared storage; a store may be a URI."
            )


def require_everywhere(check: Callable[[str], str], argument: str) -> None:
    """Call a function on each other node that can run work; it returns what is wrong, or "".

    Raises:
        UsageError: If something is wrong on one; says what, and on which.
    """
    for node, trouble in _ask(_other_nodes(), check, argument):
        raise UsageError(f"on node {node}: {trouble}")


def _other_nodes() -> dict[str, str]:
    """Return the addresses of nodes that can run work, besides this one, by their ids."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return {
        n["NodeID"]: n["NodeManagerAddress"]
        for n in ray.nodes()  # type: ignore[no-untyped-call]
        if n["Alive"] and n["NodeID"] != here and n["Resources"].get("CPU")
    }


def _ask(
    nodes: Mapping[str, str], check: Callable[[Any], str], argument: Any
) -> Iterator[tuple[str, str]]:
    """Call a function on nodes, and yield the addresses of those that answer, with what is said."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    checks = ray.remote(num_cpus=0, max_retries=0)(check)
    asked = {
        node: checks.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(argument)
        for node in nodes
    }
    for node, answer in asked.items():
        try:
            trouble = ray.get(answer, timeout=NODE_SECONDS)
        except RayError as error:  # it may have just died: what runs there will say so
            logger.warning("node %s: %s", nodes[node], type(error).__name__)
            continue
        if trouble:
            yield nodes[node], trouble


@contextmanager
def _probe(what: str, folder: Path) -> Iterator[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".seen-", dir=folder)
    except OSError as error:
        raise UsageError(f"{what} {str(folder)!r} cannot be written: {error.strerror}.") from error
    os.close(handle)
    try:
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def lacking(probes: Mapping[str, str]) -> str:
    """Return which file this node does not see, or may not write beside; "" for none.

    A moment's patience: network file systems show a new file late.
    """
    until = time.monotonic() + SEEN_SECONDS
    for what, name in probes.items():
        path = Path(name)
        while not path.exists():
            if time.monotonic() > until:
                return f"{what} {str(path.parent)!r} of the driver is not seen"
            time.sleep(0.2)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            return f"{what} {str(path.parent)!r} may not be written"
    return ""


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, by which schedulers end a job, raise KeyboardInterrupt; Ray's handler aborts."""
    if threading.current_thread() is not threading.main_thread():  # signals are not for threads
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _reach(address: str) -> None:
    """Try a plain connection, whose failure says at once what is wrong."""
    target = _known_address() if address == "auto" else address
    if target is None:  # Ray looks for its processes itself, and says so if it finds none
        return
    if target.startswith("ray://"):
        raise UsageError(
            f"{target!r} is an address of Ray Client, which this benchmark does not use: run it "
            "on a machine of the cluster with 'auto', or hand it in with 'ray job submit'."
        )
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"a Ray address is HOST:PORT or 'auto'; got {target!r}. {HOW_TO_START}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        given = "" if target == address else f" (which {address!r} stands for)"
        raise UsageError(f"no Ray answers at {target!r}{given}: {error}. {HOW_TO_START}") from error


def _rehearse(address: str) -> None:
    """Connect in a process that can be killed: ``ray.init`` may wait for ever, deaf to signals.

    It does so where something else listens, where the Ray is of another version or wants a token,
    and where it listens on loopback and this process takes the machine's other address.
    """
    code = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        subprocess.run(
            [sys.executable, "-c", code, address],
            timeout=ANSWER_SECONDS, check=True, capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        reason = (
            f"something listens, and did not let us in within {ANSWER_SECONDS:g} s "
            "(no Ray, another version of it, or one that wants a token: RAY_AUTH_MODE=token)"
        )
        raise UsageError(f"no Ray answers at {address!r}: {reason}. {HOW_TO_START}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise UsageError(f"no Ray answers at {address!r}: {lines[-1]} {HOW_TO_START}") from error


def _known_address() -> str | None:
    """Return what ``auto`` stands for, if a variable or Ray's own note on this machine tells."""
    given = os.environ.get("RAY_ADDRESS")
    if given and given != "auto":
        return given
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    note = Path(base, "ray", "ray_current_cluster")
    return note.read_text().strip() if note.is_file() else None


def _object_store_bytes() -> int:
    """A tenth of the memory; Ray refuses less than 75 MiB, and takes 30 % if not told."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(memory // 10, 80 * MIB), 2048 * MIB)
