"""Generators of the Hugging Face hub: its own client, against a server that speaks its API."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from generative.checkpoints import load_ebm, save_ebm
from generative.ddpm import DDPM
from generative.ddpm_checkpoints import load_ddpm, save_ddpm
from generative.ebm import EBM, EBMConfig
from generative.hub import snapshot, weights_folder
from generative.unet import UNetConfig
from harness.core.errors import DataError, UsageError
from harness.core.params import complete
from harness.core.protocols import DEFENSES
from harness.plan import make_plan
from harness.study import read_study
from tests.tiny import workshop, write_study

COMMIT = "c0ffee" + 34 * "0"
SMALL = UNetConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=8)


class Repositories(BaseHTTPRequestHandler):
    """``/owner/name`` is the folder ``name`` of the server's root; every branch is one commit."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder = self.root / parts[3]
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            names = [p.relative_to(folder).as_posix() for p in files]
            if parts[4] == "tree":
                content = json.dumps([
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": etag(p)}
                    for n, p in zip(names, files, strict=True)
                ])  # fmt: skip
            else:
                siblings = [{"rfilename": n} for n in names]
                content = json.dumps(
                    {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}
                )
            self._send(
                folder.is_dir(), content.encode(), {"Content-Type": "application/json"}, body
            )
        else:  # owner, name, "resolve", revision, file
            path = self.root.joinpath(parts[1], *parts[4:])
            there = path.is_file()
            headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT} if there else {}
            self._send(there, path.read_bytes() if there else b"", headers, body)

    def _send(self, there: bool, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200 if there else 404)
        if not there:
            headers = {"X-Error-Code": "RepoNotFound"}
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Repositories]]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(Repositories, "root", tmp_path / "hub", raising=False)
    monkeypatch.setattr(Repositories, "asked", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repositories)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    snapshot.cache_clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Repositories
    server.shutdown()
    thread.join()
    server.server_close()
    snapshot.cache_clear()


def publish_ebm(hub: type[Repositories], name: str) -> EBM:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = EBM(EBMConfig(nf=8))
    save_ebm(hub.root / name, model, {"name": "ebm"})
    (hub.root / name / "setup.py").write_text("raise SystemExit")
    return model


def test_a_repository_is_fetched_once_without_its_code(hub: type[Repositories]) -> None:
    publish_ebm(hub, "ebm")
    folder = snapshot("owner/ebm")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    snapshot.cache_clear()
    asked = len([path for path in hub.asked if "resolve" in path])
    assert snapshot("owner/ebm") == folder
    assert len([path for path in hub.asked if "resolve" in path]) == asked > 0


def test_an_older_export_is_fetched_where_nothing_newer_is(hub: type[Repositories]) -> None:
    for name in ("ebm", "older"):
        model = publish_ebm(hub, name)
        torch.save(model.state_dict(), hub.root / name / "pytorch_model.bin")
    (hub.root / "older" / "model.safetensors").unlink()
    assert not (snapshot("owner/ebm") / "pytorch_model.bin").exists()
    folder = snapshot("owner/older")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pytorch_model.bin"]
    assert torch.equal(load_ebm(folder).l5.weight, model.l5.weight)


def test_a_study_takes_a_generator_from_the_hub(hub: type[Repositories], tmp_path: Path) -> None:
    model = publish_ebm(hub, "ebm")
    defense = {"name": "puregen_ebm", "ebm": {"hub": "owner/ebm"}, "steps": 2}
    shop = workshop(tmp_path)
    study = read_study(write_study(tmp_path, defenses=[defense]))
    assert make_plan(study, shop).units
    loaded = shop.resource("generator", {"name": "ebm", "hub": "owner/ebm", "revision": "main"})
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
    )
    # What it stands for is its content, wherever that comes from.
    path = {"name": "ebm", "path": str(weights_folder({"hub": "owner/ebm", "revision": "main"}))}
    both = [path, {"name": "ebm", "hub": "owner/ebm", "revision": COMMIT}]
    first, second = (shop.identity("generator", reference) for reference in both)
    assert first == second


def test_a_pipeline_gives_its_network_and_all_noise_levels(hub: type[Repositories]) -> None:
    save_ddpm(hub.root / "pipeline" / "unet", DDPM(SMALL, 250), {})
    config = hub.root / "pipeline" / "unet" / "config.json"
    public = {k: v for k, v in json.loads(config.read_text()).items() if k != "horizon"}
    config.write_text(json.dumps(public))
    schedule = hub.root / "pipeline" / "scheduler" / "scheduler_config.json"
    schedule.parent.mkdir()
    schedule.write_text(json.dumps({"beta_schedule": "linear", "num_train_timesteps": 1000}))
    assert load_ddpm(snapshot("owner/pipeline")).horizon == 1000
    schedule.write_text(json.dumps({"beta_schedule": "squaredcos_cap_v2"}))
    with pytest.raises(DataError, match="beta_schedule is 'squaredcos_cap_v2'"):
        load_ddpm(hub.root / "pipeline")


def test_what_cannot_be_had_is_told(hub: type[Repositories], monkeypatch) -> None:
    hub.root.mkdir()
    with pytest.raises(DataError, match=r"'owner/gone', revision 'main', cannot be had"):
        snapshot("owner/gone")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'puregen-bench\[hub\]'"):
        snapshot("owner/ebm")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"hub": "ebm"}, r"ebm\.hub is a repository, owner/name; got 'ebm'"),
        ({"hub": "owner/ebm", "revision": 3}, r"ebm\.revision is a branch, a tag or a commit"),
        ({"hub": "owner/ebm", "revison": "x"}, "'revison'. Did you mean 'revision'"),
    ],
)
def test_references_that_are_refused(reference: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        complete(DEFENSES, {"name": "puregen_ebm", "ebm": reference}, "it")
