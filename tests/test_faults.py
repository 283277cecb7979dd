"""What a run survives on a cluster of several nodes: processes, nodes, disks and servers that go.

After each, ``run`` again (where the run did not finish by itself) gives the table of a run that
nothing disturbed, and nothing that was finished is computed twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.core.records import TrialRecord
from harness.execution import InProcess
from harness.run import run_study
from harness.study import read_study
from harness.tracking import Tracker
from tests.tiny import add_distribution, run, workshop, write_study

pytestmark = pytest.mark.cluster
Cluster = pytest.importorskip("ray.cluster_utils").Cluster
CHECKOUT = Path(__file__).resolve().parents[1]
MEMORY = 80 * 2**20  # of an object store; Ray takes no less than 75 MiB
# Each piece of work notes that it began and ended. Orders lie as files in the folder FOLDER; the
# first process that meets one takes it away and obeys: it dies, or it waits to see what comes.
COMPONENTS = '''
    """An attack and a defense from outside that note what they do, and obey orders."""
    import os, signal, time
    from dataclasses import dataclass
    from pathlib import Path
    from attacks.badnets import BadNets
    from defenses.jpeg import Jpeg

    FOLDER = Path("{folder}")

    def note(what):
        with (FOLDER / "log").open("a") as log:
            log.write(what + "\\n")

    def step(what):
        order = FOLDER / what
        taken = FOLDER / f"{{what}}.taken"
        try:
            order.rename(taken)
        except FileNotFoundError:
            return
        if taken.read_text() == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        (FOLDER / "waiting").write_text(f"{{os.getpid()}} {{os.getppid()}}")
        time.sleep(60)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Attack(BadNets):
        """It."""

        def poison(self, train, test, rng):
            step("craft")
            made = BadNets.poison(self, train, test, rng)
            note(f"crafted {{self.adv_label}}")
            return made

    class Hook:
        def before_epoch(self, epoch, train, model, rng):
            step("train")
            return train.labels * 0 + range(len(train))

        def on_batch(self, x, rows, rng):
            return x

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Defense(Jpeg):
        """It."""

        def purify(self, train, rng):
            step("purify")
            made = Jpeg.purify(self, train, rng)
            note(f"purified {{train.digest}}")
            return made

        def hooks(self):
            return (Hook(),)
'''


@dataclass
class Place:
    """A cluster of a head without processors and two nodes of one, and a folder of its own."""

    cluster: Any
    folder: Path

    def order(self, what: str, order: str) -> None:
        (self.folder / what).write_text(order)

    def noted(self) -> Counter[str]:
        log = self.folder / "log"
        return Counter(log.read_text().splitlines() if log.exists() else [])

    def nodes(self, number: int) -> None:
        while len(self.cluster.worker_nodes) < number:
            self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def kill_node_that_waits(self, process: subprocess.Popen[str]) -> None:
        """Kill the raylet whose worker has taken an order to wait; that node is gone."""
        waiting = self.folder / "waiting"
        wait_for(lambda: waiting.exists() and waiting.read_text(), process)
        worker, raylet = map(int, waiting.read_text().split())
        waiting.unlink()
        [node] = [n for n in self.cluster.worker_nodes if raylet_of(n) == raylet]
        os.kill(raylet, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: not Path(f"/proc/{worker}").exists(), process)

    def start(self, study: Path, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "harness", "run", study, *self.options(study), *arguments]
        if "--tracking-uri" not in arguments:
            command += ["--no-tracking"]
        command += ["--address", self.cluster.address]
        return subprocess.Popen(
            list(map(str, command)), text=True, cwd=study.parent, env=environment(self.folder),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def options(self, study: Path) -> list[object]:
        folder = study.parent
        return ["--store", folder / "store", "--out", folder / "run"]

    def run(self, study: Path, *arguments: object) -> tuple[int, str]:
        process = self.start(study, *arguments)
        told, _ = process.communicate(timeout=180)
        return process.returncode, told


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(CHECKOUT), str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            told = process.stdout.read() if process.stdout else ""
            pytest.fail(f"ended with {process.returncode}: {told}")
        if time.monotonic() > until:
            process.kill()
            pytest.fail(f"waited in vain: {process.communicate()[0]}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has at most 107 bytes
    for name, kind in (("Attack", "attack"), ("Defense", "defense")):
        source = COMPONENTS.format(folder=folder)
        add_distribution(folder, kind, f"faulty_{kind}", source, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment(folder)["PYTHONPATH"])
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.syspath_prepend(str(folder))
        config = {
            "health_check_initial_delay_ms": 1000,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
        }
        head = {
            "num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False,
            "_system_config": config,
        }  # fmt: skip
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        try:
            yield Place(cluster, folder)
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def study(place: Place, tmp_path: Path) -> Path:
    """A study whose components obey orders, on two nodes that are there."""
    place.nodes(2)
    for left in ("log", "craft", "purify", "train", "waiting"):
        (place.folder / left).unlink(missing_ok=True)
    return faulty(tmp_path)


def faulty(folder: Path) -> Path:
    return write_study(folder, **CHANGES)


CHANGES: dict[str, Any] = {
    "attacks": [{"name": "faulty_attack", "budget": 0.2, "size_px": 6}],
    "defenses": [{"name": "faulty_defense", "quality": 25}],
    "targets": [0, 1, 2],
}
TRIALS = 8
ROWS = 4  # of the table: without an attack and with it, undefended and defended


def measured(folder: Path) -> dict[str, TrialRecord]:
    """The records of a run without what a clock or a machine decides: they are its table."""
    read = [TrialRecord.read(p) for p in (folder / "records").glob("*.json")]
    return {r.spec_id: r.with_values(stages={}, environment={}) for r in read}


@pytest.fixture(scope="module")
def undisturbed(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, TrialRecord], Counter[str]]:
    """Records of a run in this process, and what it noted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, **CHANGES).done == TRIALS
    return measured(folder / "run"), place.noted()


def written(folder: Path) -> dict[str, int]:
    """When each record and each artefact was finished."""
    kept = [*folder.glob("run/records/*.json"), *folder.glob("store/*/*/artifact.json")]
    return {str(p): p.stat().st_mtime_ns for p in kept}


def check_logged(database: Path) -> None:
    """Each trial, each row of the table and the study itself are a finished run."""
    with closing(sqlite3.connect(database)) as opened:
        found = opened.execute(
            "select coalesce(value, ''), status, count(*) from runs left join tags"
            " on runs.run_uuid = tags.run_uuid and key = 'puregen.kind'"
            " where lifecycle_stage = 'active' group by 1, 2 order by 1"
        ).fetchall()
    assert sum(count for *_, count in found) == TRIALS + ROWS + 1, found
    assert ("summary", "FINISHED", ROWS) in found
    assert {status for _, status, _ in found} == {"FINISHED"}


def check_whole(folder: Path) -> None:
    left = [p for p in folder.rglob("*") if ".part" in p.name and "records" in p.parts]
    assert left == []


def test_processes_that_die(undisturbed, place, study) -> None:
    """One that crafts and one that trains are killed; the run ends well by itself.

    Its store of MLflow is a file, which only the driver opens, whichever node a trial ran on.
    """
    place.order("craft", "die")
    place.order("train", "die")
    database = study.parent / "mlflow.db"
    status, told = place.run(study, "--tracking-uri", f"sqlite:///{database}")
    assert status == 0, told
    check_logged(database)
    assert measured(study.parent / "run") == undisturbed[0]
    assert (place.folder / "craft.taken").exists() and (place.folder / "train.taken").exists()
    assert place.noted() == undisturbed[1]
    check_whole(study.parent)


def test_nodes_that_die(undisturbed, place, study) -> None:
    """One while it purifies and one while it trains; others come for them."""
    place.order("purify", "wait")
    place.order("train", "wait")
    process = place.start(study)
    place.kill_node_that_waits(process)
    place.nodes(2)
    place.kill_node_that_waits(process)
    place.nodes(2)
    told, _ = process.communicate(timeout=180)
    assert process.returncode == 0, told
    assert measured(study.parent / "run") == undisturbed[0]
    assert place.noted() == undisturbed[1]
    check_whole(study.parent)


def test_a_driver_that_dies(undisturbed, place, study) -> None:
    """Killed among trials, one of which is in the middle; the second call finishes."""
    folder = study.parent
    place.order("train", "wait")
    process = place.start(study)
    wait_for((place.folder / "waiting").exists, process)
    wait_for(lambda: list(folder.glob("run/records/*.json")), process)
    process.kill()
    process.communicate()
    first = written(folder)
    assert 0 < len(list(folder.glob("run/records/*.json"))) < TRIALS

    status, told = place.run(study)
    assert status == 0, told
    second = written(folder)
    assert {p: t for p, t in second.items() if p in first} == first
    assert measured(folder / "run") == undisturbed[0]
    assert place.noted() == undisturbed[1]
    check_whole(folder)


def test_a_folder_that_only_the_driver_sees(place, study) -> None:
    """Refused before any work: the driver's folder of runs is a disk of its own."""
    private = study.parent / "private"
    private.mkdir()
    if subprocess.run(mounted(private, ["true"]), capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount anything")
    process = subprocess.run(
        mounted(private, [
            sys.executable, "-m", "harness", "run", str(study), "--no-tracking",
            "--store", str(study.parent / "store"), "--out", str(private / "x"),
            "--address", place.cluster.address,
        ]),
        env=environment(place.folder), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert process.returncode == 2, process.stdout + process.stderr
    [line] = [t for t in process.stderr.splitlines() if t.startswith("error:")]
    assert f"run folder '{private / 'x'}' of the driver is not seen on node" in line
    assert "give --out and --store on shared storage" in line
    assert not list(study.parent.glob("run/records/*"))
    assert place.noted() == Counter()


def mounted(folder: Path, command: list[str], size: str = "20m") -> list[str]:
    """Run a command where a small disk is mounted on a folder, for it alone."""
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, str(folder), *command]


def test_a_disk_that_is_full(undisturbed, place, study) -> None:
    """The run says so; with space, the same command finishes it."""
    folder = study.parent
    disk = folder / "disk"
    disk.mkdir()
    again = [
        sys.executable, "-m", "harness", "run", str(study), "--in-process", "--no-tracking",
        "--store", str(disk / "store"), "--out", str(disk / "run"),
    ]  # fmt: skip
    script = (
        '"$@" > "$0/../first" 2>&1; echo $? > "$0/../status"; mount -o remount,size=50m "$0"; '
        '"$@" > "$0/../second" 2>&1 && cp -r "$0/run" "$0/../run"'
    )
    command = mounted(disk, ["sh", "-c", script, str(disk), *again], size="400k")
    if subprocess.run(mounted(disk, ["true"]), capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount anything")
    done = subprocess.run(command, env=environment(place.folder), check=False, timeout=180)
    first = (folder / "first").read_text()
    assert done.returncode == 0, first + (folder / "second").read_text()
    assert (folder / "status").read_text().strip() in ("1", "2"), first
    assert "No space left on device" in first
    assert "Traceback" not in first
    assert measured(folder / "run") == undisturbed[0]
    check_whole(folder / "run")


class Relay(socketserver.ThreadingTCPServer):
    """Stands before a server and is what others see of it; while ``up`` is not set, it is down."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.behind, self.up = port, threading.Event()
        self.up.set()
        super().__init__(("127.0.0.1", 0), _Connection)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.up.is_set()


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.behind)) as behind:
            back = threading.Thread(target=self._carry, args=(behind, self.request), daemon=True)
            back.start()
            self._carry(self.request, behind)

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        try:
            while self.server.up.is_set() and (data := source.recv(65536)):
                to.sendall(data)
            to.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Relay]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(
        command, env={**os.environ, **quick}, cwd=folder, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            wait_for(lambda: healthy(port), server, 150)
            with Relay(port) as relay:
                threading.Thread(target=relay.serve_forever, daemon=True).start()
                yield relay
                relay.shutdown()
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def test_a_tracking_server_that_is_down_for_a_while(undisturbed, tmp_path) -> None:
    """The run does not wait for it; it is caught up with once it is back."""
    study = read_study(faulty(tmp_path))
    folder = tmp_path / "run"
    with mlflow_server(tmp_path) as relay:
        tracker = Tracker(relay.uri, study.name, folder)
        tracker.start(study.raw)

        class Sink:
            logged = 0

            def log(self, record: TrialRecord, samples: Path | None) -> None:
                if self.logged == 3:
                    relay.up.clear()
                self.logged += 1
                tracker.log(record, samples)

        @contextmanager
        def services(work: bool) -> Iterator[Any]:
            yield InProcess(), Sink()

        assert run_study(study, workshop(tmp_path), folder, services).complete
        tracker.finish({}, "FINISHED")
        assert len(tracker.missed) == TRIALS - 3
        relay.up.set()
        again = Tracker(relay.uri, study.name, folder)
        again.start(study.raw)
        again.sync(folder)
        again.finish({}, "FINISHED")
        assert again.missed == set()
    check_logged(tmp_path / "server.db")
    assert measured(folder) == undisturbed[0]
