"""A run's tables against its records: whatever is changed by hand is found, and only that."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.core.records import TrialRecord
from harness.report.build import build_report
from harness.verification.drawings import svg_difference
from harness.verification.tables import wrong_cells
from harness.verification.verify import verify
from tests.tiny import CommandLine, run, workshop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with its report."""
    folder = tmp_path_factory.mktemp("made")
    assert run(folder).complete
    build_report(folder / "run")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be tampered with."""
    return shutil.copytree(made / "run", tmp_path / "run")


def attacked(folder: Path) -> Path:
    return next(
        path for path in sorted((folder / "records").glob("*.json"))
        if TrialRecord.read(path).labels == {**TrialRecord.read(path).labels,
                                             "attack": "badnets", "defense": "jpeg"}
    )  # fmt: skip


def wrong(folder: Path) -> tuple[str, ...]:
    return verify(folder).discrepancies


def without_checksums(folder: Path) -> Path:
    """As one who tampers would leave it: the hashes made to fit, or gone."""
    (folder / "report" / "SHA256SUMS").unlink()
    return folder


def change(path: Path, key: str, value: object) -> None:
    raw = json.loads(path.read_text())
    raw[key] = value
    path.write_text(json.dumps(raw))


def test_a_run_as_it_was_made_is_right(made: Path) -> None:
    found = verify(made / "run", workshop(made))
    assert found.discrepancies == ()
    assert found.unchecked == ()
    drawn = len(list((made / "run" / "report" / "figures").iterdir()))
    assert f"{drawn} files of report/figures against what the records draw" in found.checked
    shown = f"{drawn // 2} drawings in report/index.html against those of report/figures"
    assert shown in found.checked
    assert "4 records against study.json, their ids and themselves" in found.checked
    assert "report/table.tex against the records" in found.checked


@pytest.mark.parametrize("name", ["table.csv", "table.md", "table.tex", "trials.csv", "index.html"])
def test_a_number_changed_in_a_table(folder: Path, name: str) -> None:
    record = TrialRecord.read(attacked(folder))
    share = record.natural_accuracy
    said = str(share) if name.endswith(".csv") else f"{100 * share:.1f}"
    file = without_checksums(folder) / "report" / name
    text = file.read_text()
    assert said in text
    file.write_text(text.replace(said, said.replace("0.", "0.9") if "csv" in name else "99.9", 1))
    lines = wrong(folder)
    assert lines and all(line.startswith(f"report/{name}, ") for line in lines)
    assert "the records give" in lines[0]


def test_the_line_names_row_and_column() -> None:
    derived = "attack,defense,accuracy\nbadnets,none,0.5\nbadnets,ebm,0.25\n"
    [line] = wrong_cells("t.csv", derived.replace("0.25", "0.75"), derived)
    assert line == (
        "t.csv, row 2 (badnets / ebm), column accuracy: says '0.75', the records give '0.25'"
    )
    assert list(wrong_cells("t.csv", derived.replace("0.25", "0.250"), derived)) == []
    [line] = wrong_cells("t.md", "| a | 1.0 |\n", "| a | 2.0 |\n")
    assert line == "t.md, line 1, says '1.0', the records give '2.0'"


def test_a_count_changed_in_a_record(folder: Path) -> None:
    path = attacked(folder)
    change(path, "test_correct", TrialRecord.read(path).test_correct + 1)
    lines = wrong(folder)
    where = f"records/{path.name}"
    assert f"{where}: changed since the report was made (SHA-256 differs)" in lines
    assert any(line.startswith(f"{where}: test_correct is") for line in lines)
    assert any(line.startswith("report/table.csv, row 4 (badnets / jpeg") for line in lines)
    assert any(line.startswith("report/index.html, section results") for line in lines)


def test_a_spec_changed_in_a_record(folder: Path) -> None:
    path = attacked(folder)
    spec = TrialRecord.read(path).spec
    change(path, "spec", {**spec, "defense": {**spec["defense"], "quality": 26}})
    lines = wrong(without_checksums(folder))
    assert f"records/{path.name}: its spec is not the one that its id is the hash of" in lines
    page = [line for line in lines if line.startswith("report/index.html, section run: ")]
    assert any("quality: 26" in line for line in page)
    assert not any(line.startswith("report/table.csv") for line in lines)  # no number differs


def test_a_record_deleted(folder: Path) -> None:
    path = attacked(folder)
    path.unlink()
    lines = wrong(folder)
    assert f"records/{path.name}: named in report/SHA256SUMS and not there" in lines
    missing = f"records/{path.name}: planned, not there, and no report names it as missing"
    assert missing in lines
    assert "report/table.csv, 4 rows, and the records give 3" in lines
    build_report(folder)  # which says what is missing
    assert wrong(folder) == ()


def test_a_report_from_before_the_end_of_its_run(folder: Path) -> None:
    path = attacked(folder)
    record = path.read_text()
    path.unlink()
    build_report(folder)
    path.write_text(record)
    [line] = wrong(folder)
    assert line.startswith("report: made when 1 of the 4 records were not there; make it again: ")
    build_report(folder)
    assert wrong(folder) == ()


def test_records_that_cannot_be_read_are_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = attacked(folder)
    path.write_text("{")
    cli = CommandLine(monkeypatch, capsys)
    told = f"records/{path.name}: {path.name} is no record of schema 1"
    assert cli("report", folder) == 0
    assert f"not read, and in no table: {told}" in cli.err
    assert cli("compare", folder, folder) == 0
    assert f"not read, and in no table: {folder}/{told}" in cli.err


def test_a_record_of_another_run_and_a_broken_one(folder: Path) -> None:
    path = attacked(folder)
    stranger = path.with_name("0123456789ab.json")
    stranger.write_text(path.read_text().replace(path.stem, stranger.stem))
    path.write_text("{")
    lines = wrong(folder)
    assert f"records/{stranger.name}: of no trial of the study" in lines
    assert any(line.startswith(f"records/{path.name}: {path.name} is no record") for line in lines)


def test_data_that_changed_since(made: Path, folder: Path) -> None:
    study = json.loads((folder / "study.json").read_text())
    study["inputs"]["dataset shapes"] = "0" * 64
    (folder / "study.json").write_text(json.dumps(study))
    lines = verify(without_checksums(folder), workshop(made)).discrepancies
    assert "dataset shapes: changed since the run: its code, its data or its weights" in lines
    assert all("section run" in line for line in lines if not line.startswith("dataset shapes"))


def test_verify_from_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(monkeypatch, capsys)
    assert cli("verify", folder) == 0
    assert cli.out.splitlines()[-1] == "0 discrepancies"
    sample = next((folder / "samples").iterdir())
    sample.write_bytes(sample.read_bytes()[:-1] + b"x")
    assert cli("verify", folder) == 1
    assert f"WRONG samples/{sample.name}: changed since the report was made" in cli.out
    assert cli("verify", folder.with_name("ran")) == 2
    assert "Did you mean 'run'?" in cli.err


def figures(folder: Path) -> list[str]:
    """What is said of figures alone; the page's text is checked elsewhere."""
    return [line for line in wrong(without_checksums(folder)) if "figure" in line]


def test_a_number_changed_in_a_drawing(folder: Path) -> None:
    svg = folder / "report" / "figures" / "tradeoff.svg"
    text = svg.read_text()
    moved = re.search(r'<path d="M (\d+)\.', text)
    assert moved
    svg.write_text(text.replace(moved[0], f'<path d="M {int(moved[1]) + 3}.', 1))
    lines = figures(folder)
    assert [line.split(",")[0] for line in lines] == [
        "report/figures/tradeoff.svg", "report/index.html"
    ]  # fmt: skip
    assert "the records draw '<path d=" in lines[0]
    assert lines[1] == "report/index.html, figure tradeoff: is not the one of report/figures"


def test_the_text_of_a_label_changed_in_a_drawing_and_in_the_page(folder: Path) -> None:
    svg, page = folder / "report" / "figures" / "tradeoff.svg", folder / "report" / "index.html"
    text = svg.read_text()
    first, other, *_ = dict.fromkeys(re.findall(r'href="#(DejaVuSans-\w+)"', text))
    svg.write_text(text.replace(f'href="#{first}"', f'href="#{other}"', 1))
    inline = page.read_text().replace(f'href="#f1-{first}"', f'href="#f1-{other}"', 1)
    page.write_text(inline)
    [line] = figures(folder)  # the page shows what the file does
    assert line.startswith("report/figures/tradeoff.svg, in text_")


def test_a_drawing_changed_in_the_page_alone(folder: Path) -> None:
    page = folder / "report" / "index.html"
    before, tag, after = page.read_text().partition('<svg role="img"')
    page.write_text(before + tag + after.replace("stroke-width: 0.8", "stroke-width: 3", 1))
    [line] = figures(folder)
    assert re.match(r"report/index.html, figure \w+: is not the one of report/figures", line)


def test_a_pixel_changed_in_an_image(folder: Path) -> None:
    png = folder / "report" / "figures" / "images_1.png"
    with Image.open(png) as image:
        pixels, info = np.array(image), PngInfo()
        info.add_text("Software", image.info["Software"])
    Image.fromarray(pixels).save(png, pnginfo=info)
    assert verify(without_checksums(folder)).discrepancies == (
        "report/index.html, figure images_1: is not the one of report/figures",
    )  # the same pixels in other bytes
    pixels[40:44, 50:55, 0] ^= 0x40
    Image.fromarray(pixels).save(png, pnginfo=info)
    lines = verify(folder).discrepancies
    assert lines[0].startswith("report/figures/images_1.png, 20 of ")
    assert lines[0].endswith("pixels are not those that the records draw, the first in row 40, "
                             "column 50")  # fmt: skip
    png.write_bytes(b"no image")
    assert figures_of(folder, "images_1.png")[0].startswith(
        "report/figures/images_1.png, is no image"
    )


def figures_of(folder: Path, name: str) -> list[str]:
    return [line for line in wrong(folder) if line.startswith(f"report/figures/{name}")]


def test_a_figure_that_is_gone_and_one_too_many(folder: Path) -> None:
    drawn = folder / "report" / "figures"
    (drawn / "tradeoff.png").rename(drawn / "better.png")
    (folder / "report" / "SHA256SUMS").unlink()
    assert figures_of(folder, "") == [
        "report/figures/tradeoff.png: not there, and the records draw one",
        "report/figures/better.png: the records draw no such figure",
    ]


def test_figures_of_another_matplotlib_are_no_discrepancy(folder: Path) -> None:
    for path in (folder / "report" / "figures").iterdir():
        content = path.read_bytes().replace(b"matplotlib 3.", b"matplotlib 2.")
        if path.suffix == ".svg":
            content = content.replace(b"stroke-linejoin: miter", b"stroke-linejoin: round")
            path.write_bytes(content)
            page = folder / "report" / "index.html"
            page.write_text(page.read_text().replace("linejoin: miter", "linejoin: round"))
        else:
            path.unlink()
    found = verify(without_checksums(folder))
    assert found.discrepancies == ()
    [said] = [line for line in found.unchecked if "drawn with" in line]
    assert said.startswith("report/figures/tradeoff.svg: drawn with matplotlib 2.")
    assert ", here matplotlib 3." in said


def test_without_samples_images_are_not_checked(folder: Path) -> None:
    shutil.rmtree(folder / "samples")
    found = verify(without_checksums(folder))
    assert not [line for line in found.discrepancies if "figures" in line]
    assert "report/figures/images_1.svg: no samples of the run are there" in found.unchecked


def test_a_line_that_rounding_moved_is_the_same_line() -> None:
    line = '<g id="line2d_1">\n<path id="m0123456789" d="M {} 2" style="fill: #1f77b4"/>\n</g>'
    assert svg_difference(line.format("1.000001"), line.format("1.0")) == ""
    made = line.format("1.0").replace("m0123456789", "mabcdef0123")
    assert svg_difference(made, line.format("1.0")) == ""
    found = svg_difference(line.format("1.01"), line.format("1.0"))
    assert found.startswith("in line2d_1: says '<path id=")
    assert svg_difference(line.format("1.0").replace("1f77b4", "1f77b5"), line.format("1.0"))
    assert svg_difference(line.format("1.0").removesuffix("\n</g>"), line.format("1.0"))
