"""A store behind a URI, held against a server that speaks S3: shared, whole, or one message."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from pyarrow import fs

from harness.artifacts import LABEL, Store
from harness.core.errors import DataError, UsageError
from harness.core.records import TrialRecord
from harness.generator_tools import generators_of
from harness.plan import make_plan
from harness.remote_store import (
    CACHE_VARIABLE,
    RemoteStore,
    address_of,
    cache_folder,
    open_store,
)
from harness.run import run_study
from harness.study import read_study
from harness.work import workshop_of
from tests.store_functions import killed_while_it_sends, read
from tests.test_faults import MEMORY, Cluster, environment
from tests.tiny import EBM, CommandLine, in_process, write_study

KEY = {"kind": "text", "seed": 0}
BUCKET = "artefacts"


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that speaks S3, on loopback, with an empty bucket."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    code = "from moto.server import main; main()"
    with (
        pytest.MonkeyPatch.context() as patch,
        log.open("w") as told,
        subprocess.Popen(
            [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)],
            stdout=told, stderr=told,
        ) as process,
    ):  # fmt: skip
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            wait_for(port, process, log)
            remote(port, allow_bucket_creation=True).create_dir(BUCKET)
            yield port
        finally:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no server: {log.read_text()}")


def remote(port: int, **options: Any) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", **options
    )


def uri(port: int, prefix: str, bucket: str = BUCKET) -> str:
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    return f"s3://{bucket}/{prefix}?{query}"


@pytest.fixture
def address(server: int, tmp_path: Path) -> str:
    """A store that nobody else uses."""
    return uri(server, tmp_path.name)


@pytest.fixture
def node(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Opens the store as a node with a cache of its own does."""

    def opened(name: str) -> RemoteStore:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
        workshop_of.cache_clear()
        store = open_store(address)
        assert isinstance(store, RemoteStore)
        assert store.root.is_relative_to(tmp_path / name)
        return store

    return opened


def write(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "text").write_text(text)


def broken(folder: Path) -> None:
    raise AssertionError("made although it is there")


def objects(store: RemoteStore) -> dict[str, fs.FileInfo]:
    """What the remote has of one store, by name."""
    found = store.filesystem.get_file_info(fs.FileSelector(store.base, recursive=True))
    return {info.path: info for info in found if info.type == fs.FileType.File}


def put(store: RemoteStore, path: str, text: str) -> None:
    with store.filesystem.open_output_stream(path) as stream:
        stream.write(text.encode())


# One artefact


def test_made_on_one_node_and_read_on_another(node) -> None:
    first = node("a")
    assert not first.has(KEY)
    text, made = first.recall(KEY, write("a"), read)
    assert (text, made.reused) == ("a", False)
    second = node("b")
    assert second.has(KEY) and not second.root.exists()
    text, fetched = second.recall(KEY, broken, read)
    assert (text, fetched.reused, fetched.seconds) == ("a", True, made.seconds)
    for name in ("text", LABEL):
        there, here = (store.folder(KEY) / name for store in (first, second))
        assert there.read_bytes() == here.read_bytes()
    assert second.recall(KEY, broken, read)[1].reused
    assert node("c").bring(KEY).joinpath("text").read_text() == "a"


def test_what_only_a_cache_has_is_sent_when_it_is_next_looked_at(node, monkeypatch) -> None:
    first = node("a")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "_put", lambda *_: (_ for _ in ()).throw(OSError("no network")))
        with pytest.raises(DataError, match=r"store 's3://.*cannot be written: no network\."):
            first.recall(KEY, write("a"), read)
    assert not first.has(KEY)  # others do not see it
    assert first.recall(KEY, broken, read)[0] == "a"
    assert node("b").recall(KEY, broken, read)[0] == "a"


def test_two_nodes_at_once(node) -> None:
    """Both make it, and not even alike; whichever label comes last, what it lists is there."""
    both = Barrier(2)

    def make(text: str) -> Callable[[Path], None]:
        def made(folder: Path) -> None:
            both.wait(20)
            (folder / "text").write_text(text)

        return made

    stores = {text: node(text) for text in ("one", "two")}
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(s.recall, KEY, make(text), read) for text, s in stores.items()]
    assert [each.result()[0] for each in found] == ["one", "two"]
    assert node("c").recall(KEY, broken, read)[0] in ("one", "two")


def test_one_that_is_killed_while_it_sends(node, address, tmp_path) -> None:
    arguments = (address, str(tmp_path / "killed"), KEY)
    process = get_context("spawn").Process(target=killed_while_it_sends, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = node("a")
    [sent] = objects(store)
    assert sent.endswith("-text")  # all but the label
    assert not store.has(KEY)
    assert store.recall(KEY, write("whole"), read)[0] == "whole"
    assert node("b").recall(KEY, broken, read)[0] == "whole"


def damage_file(store: RemoteStore, label: dict[str, Any], file: str) -> None:
    put(store, file, "b")


def take_file_away(store: RemoteStore, label: dict[str, Any], file: str) -> None:
    store.filesystem.delete_file(file)


def damage_label(store: RemoteStore, label: dict[str, Any], file: str) -> None:
    put(store, f"{store._place(KEY)}/{LABEL}", "{")


def put_under_another_key(store: RemoteStore, label: dict[str, Any], file: str) -> None:
    other = {**label, "key": {**KEY, "seed": 1}}
    put(store, f"{store._place(KEY)}/{LABEL}", json.dumps(other))


def name_a_file_elsewhere(store: RemoteStore, label: dict[str, Any], file: str) -> None:
    content = label["files"]["text"]
    put(store, f"{store._place(KEY)}/{content[:16]}-../text", "a")
    other = {**label, "files": {"../text": content}}
    put(store, f"{store._place(KEY)}/{LABEL}", json.dumps(other))


@pytest.mark.parametrize(
    "damage",
    [damage_file, take_file_away, damage_label, put_under_another_key, name_a_file_elsewhere],
)
def test_what_is_not_what_was_sent_is_refused(node, damage) -> None:
    first = node("a")
    first.recall(KEY, write("a"), read)
    label = json.loads((first.folder(KEY) / LABEL).read_text())
    [file] = [path for path in objects(first) if path.endswith("-text")]
    damage(first, label, file)
    second = node("b")
    with pytest.raises(DataError, match="is not what was stored; remove this label"):
        second.recall(KEY, broken, broken)
    assert not [p for p in second.root.rglob("*") if p.is_file() and p.suffix != ".lock"]
    second.filesystem.delete_file(f"{second._place(KEY)}/{LABEL}")
    third = node("c")
    assert third.recall(KEY, write("again"), read)[0] == "again"
    assert node("d").recall(KEY, broken, read)[0] == "again"


def test_a_damaged_cache_is_refused(node) -> None:
    store = node("a")
    store.recall(KEY, write("a"), read)
    (store.folder(KEY) / "text").write_text("b")
    with pytest.raises(DataError, match="remove this folder"):
        store.recall(KEY, broken, broken)


# Addresses


def test_addresses(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert address_of("store") == str(tmp_path / "store")
    assert address_of(f"file://{tmp_path}/a%20b") == str(tmp_path / "a b")
    assert address_of("s3://bucket/store/") == "s3://bucket/store"
    store = open_store(str(tmp_path))
    assert type(store) is Store and store.root == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path))
    one, other = cache_folder("s3://bucket/a"), cache_folder("s3://bucket/b")
    assert one.parent == other.parent == tmp_path / "cache" and one != other


@pytest.mark.parametrize("given", ["s3://me:secret@bucket/x", "s3://bucket/x?secret_key=y"])
def test_a_secret_in_an_address_is_refused(given) -> None:
    with pytest.raises(UsageError, match="a secret in --store would stand in records") as raised:
        address_of(given)
    assert "y" not in str(raised.value).split() and "me:" not in str(raised.value)


def test_what_fsspec_reaches(tmp_path, monkeypatch) -> None:
    """Where pyarrow has no file system of its own: here one in this process's memory."""
    for name in ("a", "b"):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
        store = open_store("memory://place/store")
        store.check()
        assert store.recall(KEY, write("a") if name == "a" else broken, read)[0] == "a"


# Commands


def study_of(folder: Path) -> Path:
    """A study with a network, poisons, clean rows and poisoned rows."""
    ebm = {"name": "puregen_ebm", "steps": 2, "ebm": EBM}
    return write_study(folder, defenses=[ebm])


def measured(run: Path) -> dict[str, TrialRecord]:
    """Records without what a clock decides."""
    found = [TrialRecord.read(p) for p in (run / "records").glob("*.json")]
    return {r.spec_id: r.with_values(stages={}, environment={}) for r in found}


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    return CommandLine(monkeypatch, capsys)


def test_a_study_on_two_nodes(node, address, tmp_path, monkeypatch) -> None:
    """What one has made the other does not make; records are those of a store on disk."""
    study = read_study(study_of(tmp_path))

    def run(store: str, name: str) -> dict[str, TrialRecord]:
        shop = workshop_of(store, "cpu")
        assert run_study(study, shop, tmp_path / name / "run", in_process).complete
        return measured(tmp_path / name / "run")

    first = node("a")
    made = run(address, "a")
    sent = objects(first)
    assert {path.split("/")[2] for path in sent} >= {"generator", "poison", "purified"}

    second = node("b")
    shop = workshop_of(address, "cpu")
    plan = make_plan(study, shop)
    assert plan.units and all(unit.there(shop) for unit in plan.units)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "obtain", lambda *_: pytest.fail("made twice"))
        fetched = run(address, "b")
    assert objects(second).keys() == sent.keys()
    node("c")
    assert all(path.is_dir() for path in generators_of(study, workshop_of(address, "cpu")))
    assert made == fetched == run(str(tmp_path / "local"), "local")
    assert len(made) > 1


@pytest.fixture
def cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without processors; it sees the server, and so do nodes that are added."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has at most 107 bytes
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", environment(folder)["PYTHONPATH"])
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    started = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        yield started
    finally:
        started.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
def test_a_study_on_nodes_with_caches_of_their_own(cluster, node, address, tmp_path) -> None:
    """The driver finds what a node has made; a node that cannot use the store is named."""
    store = node("driver")
    study = study_of(tmp_path)

    def run(out: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "harness", "run", str(study), "--no-tracking", "--store", address,
            "--out", str(tmp_path / out), "--address", cluster.address,
        ]  # fmt: skip
        return subprocess.run(
            command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip

    def add(cache: str) -> None:
        variables = {CACHE_VARIABLE: cache}
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY, env_vars=variables)

    add(str(tmp_path / "node"))
    done = run("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(measured(tmp_path / "run")) > 1
    made = {p.parent.name for p in (tmp_path / "node").rglob(LABEL)}
    sent = {path.split("/")[3] for path in objects(store) if path.endswith(LABEL)}
    assert made == sent and len(made) > 3
    # The driver has no more than what it had to look into.
    assert {p.parent.name for p in (tmp_path / "driver").rglob(LABEL)} < made

    add("/proc/nowhere")
    done = run("other")
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [t for t in done.stderr.splitlines() if t.startswith("error:")]
    assert "on node " in line and "store '/proc/nowhere/" in line and "cannot be written" in line
    assert not (tmp_path / "other" / "records").exists()


def test_a_store_that_cannot_be_used_is_one_message(server, cli, tmp_path) -> None:
    study = write_study(tmp_path)
    for store, words in (
        (uri(free_port(), "x"), "cannot be used: When "),
        (uri(server, "x", bucket="nobodys"), "cannot be used: "),
        ("s3://", "names no bucket"),
        ("nosuch://place/store", "Allowed: a path, s3://"),
        ("http://127.0.0.1:9/store", "cannot be used: what reaches it can only read"),
        ("s3://bucket/x?nosuch=1", "Unexpected query parameter"),
        ("s3://me:secret@bucket/x", "a secret in --store"),
    ):
        assert cli("run", study, "--in-process", "--store", store, "--out", "run") == 2
        [line] = cli.err.splitlines()
        assert line.startswith("error: ") and words in line
        assert not (tmp_path / "run").exists() and not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("run", "smoke"), ("plan", "smoke"), ("craft", "smoke"), ("submit", "smoke", "--dry-run"),
        ("search", "smoke"), ("demo",),
    ],
)  # fmt: skip
def test_a_run_is_kept_in_a_folder(cli, tmp_path, command) -> None:
    assert cli(*command, "--out", "s3://bucket/run") == 2
    assert "error: 's3://bucket/run' is a URI; what is written here is kept in a folder" in cli.err
    assert not list(tmp_path.iterdir())


def test_a_job_is_given_the_uri(cli, address, tmp_path) -> None:
    arguments = ("--dry-run", "--out", "/shared/run", "--store", "s3://bucket/store")
    assert cli("submit", write_study(tmp_path), *arguments) == 0, cli.err
    assert "--store s3://bucket/store" in cli.out
