"""What a reader's browser makes of the report, of a leaderboard and of MLflow's pages."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import sweeps
from harness.leaderboard.reading import read_submission
from harness.leaderboard.site import build_site
from harness.leaderboard.writing import About, write_submission
from harness.sweeps import path_of
from tests.leaderboard_runs import make_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no browser: none of chromium, chromium-browser, google-chrome is on PATH; "
    "get one with: apt-get install chromium",
)
sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: uv sync --group dev")

UI_SECONDS = 150  # MLflow's server starts in 10 idle, and in several times that on a busy machine


class Ui:
    """MLflow's pages as ``puregen-bench ui`` serves them."""

    def __init__(self, study: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.study, self.log = study, folder / "ui.log"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        self.command = [sys.executable, "-m", "harness", "ui", str(folder / study)]
        self.command += ["--port", str(self.port)]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                self.command, env=environment, stdout=subprocess.PIPE, stderr=log
            )
        self.said: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Where it is, once it says so: it waits for its own server to be well."""
        return self.link("address")

    def link(self, name: str) -> str:
        """A link that it printed, by what stands before it."""
        if not self.said and self.server.stdout:
            for raw in self.server.stdout:  # MLflow writes there too
                line = raw.decode()
                if line.startswith("http://127.0.0.1:"):
                    self.said["address"] = line.split()[0]
                elif line.startswith("  ") and ": http://" in line:
                    what, _, link = line.strip().partition(": ")
                    self.said[what] = link
                if line.startswith("  compare without attack: "):  # the last one of a study
                    break
        assert name in self.said, self.log.read_text()
        return self.said[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study ``smoke``, run as a user would, and MLflow's store beside it."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "harness", "run", str(path_of("smoke")), "--in-process"]
    command += ["--store", str(folder / "store"), "--out", str(folder / "smoke")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def ui(runs: Path) -> Iterator[Ui]:
    """Started with the first test that asks for the runs, so that it is up when it is needed."""
    started = Ui("smoke", runs)
    try:
        yield started
    finally:
        started.server.send_signal(signal.SIGTERM)
        started.server.wait(30)
        if started.server.stdout:
            started.server.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test on a script's error or on what it may not load."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, accept_downloads=True, locale="en-US"
    )
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on(
        "console",
        lambda message: (
            errors.append(message.text)
            if message.type == "error" and "Content Security Policy" in message.text
            else None
        ),
    )
    yield opened
    context.close()
    assert errors == []


def column(page: Any, table: str, index: int) -> list[str]:
    cells = page.locator(f"#{table} tbody tr:visible td:nth-child({index + 1})")
    return [" ".join(text.split()) for text in cells.all_inner_texts()]


def place(page: Any, table: str, title: str) -> int:
    heads = page.locator(f"#{table} thead th").all_inner_texts()
    return next(i for i, text in enumerate(heads) if text.startswith(title))


def check_sorting(page: Any, table: str, title: str) -> None:
    """Click a heading three times: ascending, descending, as it was."""
    at = place(page, table, title)
    head = page.locator(f"#{table} thead th").nth(at)
    original = column(page, table, at)

    def numbers() -> list[float]:
        texts = (re.match(r"[\d.]+", text) for text in column(page, table, at))
        return [float(found[0]) for found in texts if found]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(numbers()) and len(set(numbers())) > 1
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none" and column(page, table, at) == original


def test_the_report(runs: Path, ui: Ui, page: Any, tmp_path: Path) -> None:
    page.goto((runs / "smoke" / "report" / "index.html").as_uri())
    check_sorting(page, "main", "Natural accuracy")
    rows = page.locator("#main tbody tr:visible")
    count = rows.count()
    controls = page.locator('.controls[data-for="main"]')
    controls.locator(".by-defense").select_option("jpeg")
    assert 0 < rows.count() < count
    assert controls.locator(".shown").inner_text() == f"{rows.count()} of {count} rows"
    controls.locator(".find").fill("no such text")
    assert rows.count() == 0
    controls.locator(".find").fill("")
    controls.locator(".by-defense").select_option("")
    assert rows.count() == count
    drawings = page.locator("figure .paper > *")
    assert drawings.count() >= 2
    for drawing in drawings.all():
        box = drawing.bounding_box()
        assert box["width"] > 200 and box["height"] > 100
    details = page.locator("#reproduce details").first
    assert not details.locator("pre").is_visible()
    details.locator("summary").click()
    assert "name: smoke" in details.locator("pre").inner_text()
    page.screenshot(path=tmp_path / "report.png", full_page=True)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study that follows images, run as a user would."""
    folder = tmp_path_factory.mktemp("followed")
    weights = str(sweeps.folder() / "weights" / "shapes_ebm")
    study = {
        "name": "followed",
        "dataset": {"name": "shapes", "train": 60, "test": 30},
        "trajectories": [
            {"name": "pattern", "generator": {"path": weights}, "temperature": 2e-5,
             "steps": [4, 40, 80], "count": 8},
        ],
    }  # fmt: skip
    file = folder / "followed.yaml"
    file.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "harness", "run", str(file), "--in-process", "--no-tracking"]
    command += ["--store", str(folder / "store"), "--out", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "run" / "report" / "index.html"


def test_the_page_of_a_trajectory(followed: Path, page: Any, tmp_path: Path) -> None:
    page.goto(followed.as_uri())
    check_sorting(page, "t0-numbers", "Clean → purified poison")
    controls = page.locator('.controls[data-for="t0-numbers"]')
    assert controls.locator("select").count() == 0  # it has no attacks and defenses to choose
    rows = page.locator("#t0-numbers tbody tr:visible")
    assert rows.count() == 4
    controls.locator(".find").fill(column(page, "t0-numbers", 1)[-1])  # of the last row alone
    assert rows.count() == 1
    assert controls.locator(".shown").inner_text() == "1 of 4 rows"
    controls.locator(".find").fill("")
    assert rows.count() == 4
    drawings = page.locator("figure .paper > *")
    assert drawings.count() == 3
    for drawing in drawings.all():
        box = drawing.bounding_box()
        assert box["width"] > 100 and box["height"] > 100
    page.screenshot(path=tmp_path / "trajectory.png", full_page=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard of two people's runs, and of a paper's claims."""
    folder = tmp_path_factory.mktemp("board")
    first = make_run(folder, "first", report=False)
    second = make_run(
        folder, "second", hits={"none": 610, "puregen_ebm": 21, "avatar": 300}, report=False
    )
    file, paper = folder / "second.json", folder / "paper.json"
    assert write_submission(second, About("Second study", "B. Bee"), (), file) == ()
    write_submission(None, About("PureGen, Table 1", "its authors"), ["table_1"], paper)
    build_site([first, file, paper], folder / "site", "Leaderboard")
    return folder / "site"


def test_the_leaderboard(site: Path, page: Any, tmp_path: Path) -> None:
    page.goto((site / "index.html").as_uri())
    table = page.locator("table.sortable", has_text="avatar").first.get_attribute("id")
    check_sorting(page, table, "Poison success")
    page.screenshot(path=tmp_path / "leaderboard.png")
    rows = page.locator(f"#{table} tbody tr:visible")
    count = rows.count()
    controls = page.locator(f'.controls[data-for="{table}"]')
    controls.locator(".by-attack").select_option("Second study")
    assert rows.count() == 3 < count
    page.locator(f"#{table}").get_by_role("link", name="Second study").first.click()
    assert page.locator("h1").inner_text() == "Second study"
    assert "puregen-bench run second.yaml" in page.locator("#again").inner_text()
    hashes = page.locator("#checked details").first
    hashes.locator("summary").click()
    assert re.search(r"[0-9a-f]{64}  study\.json", hashes.inner_text())
    page.screenshot(path=tmp_path / "submission.png", full_page=True)


def test_a_claim_is_written_by_the_form(site: Path, page: Any, tmp_path: Path) -> None:
    page.goto((site / "submit.html").as_uri())
    download = page.get_by_role("button", name="Download the result file")
    download.click()
    assert page.locator(".refused").inner_text() == "Name is needed."
    values = {
        "name": "A <b>claim</b>", "who": "Ada", "dataset": "cifar10", "classifier": "resnet18",
        "attack": "narcissus eps_255=8", "defense": "jpeg quality", "source": "A paper",
    }  # fmt: skip
    for name, value in values.items():
        page.locator(f'form [name="{name}"]').first.fill(value)
    download.click()
    assert "parameter=value" in page.locator(".refused").inner_text()
    page.locator('[name="defense"]').fill("jpeg quality=75")
    download.click()
    assert "poison success or natural accuracy" in page.locator(".refused").inner_text()
    page.locator('[name="success"]').fill("12.5")
    page.locator('[name="success_std"]').fill("2.5")
    page.screenshot(path=tmp_path / "submit.png", full_page=True)
    with page.expect_download() as started:
        download.click()
    file = tmp_path / "result.json"
    started.value.save_as(file)
    [claim] = read_submission(file).claims
    assert claim.success is not None and claim.success.value == 0.125
    assert (claim.success.low, claim.success.high) == pytest.approx((0.1, 0.15))
    assert claim.defense.params == (("quality", "75"),) and claim.trials is None
    assert page.locator("#made").inner_text().strip() == file.read_text().strip()


ROWS = ("badnets / none", "badnets / jpeg", "badnets / puregen_ebm")


def test_the_runs_in_mlflow(ui: Ui, page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 2000, "height": 1000})
    page.goto(ui.link("study"))
    for name in (*ROWS, "none / jpeg"):
        page.get_by_role("link", name=name).first.wait_for()
    for title in ("natural_accuracy", "poison_success", "seconds_purify"):
        page.get_by_text(title, exact=True).first.wait_for()
    assert "6 matching runs" in page.locator("body").inner_text()
    page.screenshot(path=tmp_path / "mlflow_runs.png")
    page.goto("about:blank")  # links differ behind the '#' alone, which loads no page anew
    page.goto(ui.link("every run"))
    page.get_by_text(f"{ui.study} · ").first.wait_for()  # the study, with its trials folded below
    page.get_by_text("13 matching runs").first.wait_for()


def test_the_charts_of_mlflow(ui: Ui, page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 2000, "height": 1300})
    page.goto(ui.link("charts"))
    titles = ("natural_accuracy vs. poison_success", "seconds_purify vs. poison_success")
    for title in (*titles, "poison_success", "natural_accuracy", "Parallel Coordinates"):
        page.get_by_text(title, exact=True).first.wait_for()
    page.locator("svg.main-svg").first.wait_for()
    page.screenshot(path=tmp_path / "mlflow_charts.png")


def test_the_rows_compared_in_mlflow(ui: Ui, page: Any, tmp_path: Path) -> None:
    """The printed link leads to the study's rows, with what they were and what they measured."""
    rows = rows_of(ui)
    page.set_viewport_size({"width": 2000, "height": 2600})
    page.goto(ui.link("compare"))
    page.get_by_text("Comparing 3 Runs from 1 Experiment").wait_for()
    for name in ROWS:
        page.get_by_text(name, exact=True).first.wait_for()
    for heading in ("defense", "defense.quality"):
        shown = page.locator("tr", has=page.get_by_text(heading, exact=True)).first
        shown.scroll_into_view_if_needed()
        values = [row.data.params[heading] for row in rows if heading in row.data.params]
        assert values and all(value in shown.inner_text() for value in values)
    for name in ("poison_success", "natural_accuracy", "natural_accuracy_low"):
        heading = page.get_by_role("link", name=name, exact=True).first
        heading.scroll_into_view_if_needed()
        height = heading.bounding_box()["y"]
        for row in rows:
            value = f"{row.data.metrics[name]:.3f}".rstrip("0").rstrip(".")
            cells = page.get_by_text(value, exact=True)
            cells.first.wait_for()
            boxes = [cell.bounding_box() for cell in cells.all()]
            assert any(box and abs(box["y"] - height) < 10 for box in boxes), (name, value)
    page.screenshot(path=tmp_path / "mlflow_compare.png", full_page=True)


def rows_of(ui: Ui) -> list[Any]:
    """The rows of the study's main table that have an attack, as the server tells them."""
    from mlflow import MlflowClient  # noqa: TID251

    with urllib.request.urlopen(f"{ui.address}/health", timeout=UI_SECONDS) as reply:
        assert reply.read() == b"OK"
    client = MlflowClient(tracking_uri=ui.address)
    experiment = client.get_experiment_by_name(ui.study)
    assert experiment is not None
    query = "tags.`puregen.kind` = 'summary' and params.attack = 'badnets'"
    found = list(client.search_runs([experiment.experiment_id], query))
    assert sorted(row.info.run_name for row in found) == sorted(ROWS)
    return found


def test_a_taken_port_is_one_message(ui: Ui) -> None:
    assert ui.address
    done = subprocess.run(
        ui.command, capture_output=True, text=True, check=False, timeout=UI_SECONDS,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert f"port {ui.port} of 127.0.0.1 cannot be used: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_server_and_says_nothing(ui: Ui) -> None:
    """The last test of the server."""
    assert ui.address
    ui.server.send_signal(signal.SIGINT)
    assert ui.server.wait(UI_SECONDS) == 130
    assert "Traceback" not in ui.log.read_text()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", ui.port), timeout=5)
