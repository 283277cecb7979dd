"""Purifying one's own images: folders, arrays and tables, in chunks that are made once."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from generative.checkpoints import save_ebm
from generative.ebm import EBM as EnergyNetwork
from generative.ebm import EBMConfig
from harness.core.errors import UsageError
from harness.core.params import complete
from harness.core.protocols import DEFENSES
from harness.purify import job
from harness.purify.sources import open_source
from tests.tiny import EBM, CommandLine

JPEG = "{name: jpeg, quality: 30}"
HALF = json.dumps({"name": "chain", "parts": ["jpeg", "random_noise"]})
DDPM = {"name": "ddpm", "recipe": {"horizon": 30, "batch_size": 8}, "dataset": EBM["dataset"]}
FAR = json.dumps({"name": "puregen_ddpm", "steps": 31, "ddpm": DDPM})
CHECKOUT = Path(__file__).resolve().parents[1]


def pictures(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth images with some noise, uint8 (N, H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    return (coarse + rng.normal(0, 6, coarse.shape)).clip(0, 255).astype(np.uint8)


def folder_of(path: Path, images: np.ndarray) -> Path:
    for index, image in enumerate(images):
        file = path / ("cat", "dog/brown")[index % 2] / f"{index:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


def expected(images: np.ndarray, raw: dict | str, rows: list[int] | None = None) -> np.ndarray:
    """What the defense makes of the images at once, (N, H, W, 3)."""
    from harness.core.data import ImageSet
    from harness.core.seeds import stream
    from harness.workshop import Workshop

    defense = Workshop.component(None, DEFENSES, complete(DEFENSES, raw, "x"))  # no resource
    ids = np.array(range(len(images)) if rows is None else rows, np.int64)
    chw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    done = defense.purify(ImageSet(chw, np.zeros(len(ids), np.int64), ids, 1), stream(0, "defense"))
    return done.images.transpose(0, 2, 3, 1)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.purify.job.CHUNK", 8)


def purify(cli: CommandLine, *arguments: object) -> int:
    return cli("purify", "--store", "store", *arguments, "--in-process")


@pytest.mark.usefixtures("small_chunks")
def test_a_folder(cli, tmp_path) -> None:
    images = pictures(20)
    source = folder_of(tmp_path / "in", images)
    (source / "labels.csv").write_text("not an image")
    assert purify(cli, source, tmp_path / "out", "--defense", JPEG) == 0
    files = sorted(p.relative_to(source) for p in source.rglob("*.png"))
    assert sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.png")) == (
        files
    )
    order = [int(p.stem) for p in files]
    wanted = expected(images[order], {"name": "jpeg", "quality": 30})
    for name, image in zip(files, wanted, strict=True):
        np.testing.assert_array_equal(read(tmp_path / "out" / name), image)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["images"], manifest["changed"], manifest["seed"]) == (20, 20, 0)
    step = (wanted.astype(int) - images[order]).reshape(20, -1)
    assert manifest["mean_l2"] == pytest.approx(np.linalg.norm(step / 255, axis=1).mean())
    assert manifest["largest_change"] == np.abs(step).max()
    with (tmp_path / "out" / "changes.csv").open() as handle:
        changes = list(csv.DictReader(handle))
    assert [row["image"] for row in changes] == [str(name) for name in files]
    np.testing.assert_allclose(
        [float(row["l2"]) for row in changes], np.linalg.norm(step / 255, axis=1), atol=1e-6
    )
    assert [int(row["largest_change"]) for row in changes] == np.abs(step).max(1).tolist()
    assert manifest["parameters"]["quality"] == 30
    assert not (tmp_path / "out" / ".purify").exists()
    assert "20 of 20 images changed" in cli.out
    assert "no images of a known format, and not copied: 1 (labels.csv)" in cli.out
    before = (tmp_path / "out" / files[0]).stat().st_mtime_ns
    assert purify(cli, source, tmp_path / "out", "--defense", JPEG) == 0
    assert "done before" in cli.out
    assert (tmp_path / "out" / files[0]).stat().st_mtime_ns == before


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("last", [True, False])
def test_arrays(cli, tmp_path, save, last) -> None:
    images = pictures(21)
    given = images if last else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    labels = np.arange(21)
    save(tmp_path / "in.npz", x_train=given, y_train=labels, x_test=given[:2], note=np.array("hi"))
    assert purify(cli, tmp_path / "in.npz", tmp_path / "out.npz", "--defense", JPEG) == 0
    with np.load(tmp_path / "out.npz") as out:
        wanted = expected(images, {"name": "jpeg", "quality": 30})
        np.testing.assert_array_equal(
            out["x_train"] if last else out["x_train"].transpose(0, 2, 3, 1), wanted
        )
        np.testing.assert_array_equal(out["y_train"], labels)
        np.testing.assert_array_equal(out["x_test"], given[:2])
        assert str(out["note"]) == "hi"
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 21
    assert {p.name for p in tmp_path.iterdir()} == {
        "in.npz", "out.npz", "out.json", "out.changes.csv", "store"
    }  # fmt: skip


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def hurt(path: Path, place: int) -> None:
    """Change eight bytes of a file."""
    data = bytearray(path.read_bytes())
    data[place : place + 8] = bytes(b ^ 0x5A for b in data[place : place + 8])
    path.write_bytes(data)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("nested", [True, False])
def test_a_table(cli, tmp_path, nested) -> None:
    images = pictures(19)
    cells = [
        {"bytes": png(i), "path": f"{n}.png"} if nested else png(i) for n, i in enumerate(images)
    ]
    table = pa.table({"label": list(range(19)), "img": cells, "text": ["x"] * 19})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=5)
    assert purify(cli, tmp_path / "in.parquet", tmp_path / "out.parquet", "--defense", JPEG) == 0
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.equals(table.schema)
    assert out.drop(["img"]).equals(table.drop(["img"]))
    cells = out.column("img").to_pylist()
    raw = [c["bytes"] if nested else c for c in cells]
    if nested:
        assert [c["path"] for c in cells] == [f"{n}.png" for n in range(19)]
    wanted = expected(images, {"name": "jpeg", "quality": 30})
    for bytes_, image in zip(raw, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(bytes_))), image)


@pytest.mark.parametrize("kind", ["compressed npz", "parquet of one row group"])
def test_chunks_are_read_one_by_one_in_any_order(tmp_path, kind) -> None:
    """A chunk takes memory of its own size, however the file is packed."""
    images = np.random.default_rng(0).integers(0, 256, (6000, 32, 32, 3), np.uint8)
    if kind == "parquet of one row group":
        path, names = tmp_path / "in.parquet", [f"{n}.png" for n in range(6000)]
        table = pa.table({"image": [png(image) for image in images], "name": names})
        pq.write_table(table, path, row_group_size=6000)
        assert pq.ParquetFile(path).num_row_groups == 1
        del table
    else:
        path = tmp_path / "in.npz"
        np.savez_compressed(path, images=images)
    source, before = open_source(str(path)), pa.total_allocated_bytes()
    tracemalloc.start()
    for start in (0, 256, 2560, 512):  # a worker that takes over goes back
        rows = source.read(start, start + 256)
        wanted = images[start : start + 256].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(np.stack(rows), wanted)
        assert pa.total_allocated_bytes() - before < 9 * 2**20  # of 18 MiB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9 * 2**20


def test_a_packed_array_in_fortran_order_is_refused(tmp_path) -> None:
    np.savez_compressed(tmp_path / "in.npz", images=np.asfortranarray(pictures(4)))
    with pytest.raises(UsageError, match="compressed and in Fortran order"):
        open_source(str(tmp_path / "in.npz"))
    np.savez(tmp_path / "plain.npz", images=np.asfortranarray(pictures(4)))
    assert len(open_source(str(tmp_path / "plain.npz"))) == 4


@pytest.mark.usefixtures("small_chunks")
def test_images_of_several_sizes_and_modes(cli, tmp_path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for side in (32, 48):
        Image.fromarray(pictures(1, side)[0]).save(source / f"rgb{side}.png")
    Image.fromarray(pictures(1)[0][..., 0]).save(source / "grey.png")
    Image.fromarray(pictures(1)[0]).save(source / "photo.jpg")
    assert purify(cli, source, tmp_path / "out", "--defense", JPEG) == 0
    out = {p.name: read(p).shape for p in (tmp_path / "out").glob("*.png")}
    square = (32, 32, 3)
    assert out == {
        "rgb32.png": square, "rgb48.png": (48, 48, 3), "grey.png": square, "photo.png": square,
    }  # fmt: skip


def files_and_table(tmp_path: Path, pictures_: dict[str, Image.Image], **save: object) -> None:
    """Save pictures into a folder ``in`` and as cells of ``in.parquet``."""
    (tmp_path / "in").mkdir()
    for name, picture in pictures_.items():
        picture.save(tmp_path / "in" / name, **save)
    cells = [(tmp_path / "in" / name).read_bytes() for name in sorted(pictures_)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "in.parquet")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused_and_not_cut_off(cli, tmp_path, mode) -> None:
    deep = Image.fromarray(np.full((32, 32), 300, np.uint16))
    deep = (
        deep if mode == "I;16" else Image.fromarray(np.full((32, 32), 300, np.int32)).convert(mode)
    )
    assert deep.mode == mode
    files_and_table(tmp_path, {"a.tif": Image.fromarray(pictures(1)[0]), "deep.tif": deep})
    for source, out, called in (
        ("in", "out", "image 'deep.tif'"),
        ("in.parquet", "out.parquet", "the image in row 1"),
    ):
        assert purify(cli, source, out, "--defense", JPEG) == 2
        assert f"{called} has more than 8 bits per channel; convert it to 8 bits." in cli.err
        assert not (tmp_path / out).exists()


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_images_are_purified_as_a_viewer_shows_them(cli, tmp_path, orientation, suffix) -> None:
    stored = Image.fromarray(pictures(1, 48)[0][:32])  # 48 wide, 32 high
    exif = Image.Exif()
    exif[274] = orientation
    files_and_table(tmp_path, {f"a.{suffix}": stored}, exif=exif)
    pixels = np.asarray(Image.open(tmp_path / "in" / f"a.{suffix}").convert("RGB"))
    if suffix != "tif":  # Pillow turns a TIFF by itself
        pixels = np.rot90(pixels, {1: 0, 3: 2, 6: 3}[orientation])
    assert pixels.shape[:2] == ((48, 32) if orientation == 6 else (32, 48))
    [wanted] = expected(pixels[None], {"name": "jpeg", "quality": 30})
    assert purify(cli, "in", "out", "--defense", JPEG) == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.png"), wanted)
    assert 274 not in Image.open(tmp_path / "out" / "a.png").getexif()
    assert purify(cli, "in.parquet", "out.parquet", "--defense", JPEG) == 0
    [cell] = pq.read_table("out.parquet").column("image").to_pylist()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(cell))), wanted)
    for source in ("in", "in.parquet"):
        assert open_source(str(tmp_path / source)).shapes() == {(3, *pixels.shape[:2]): 0}


def test_folders_behind_links_are_purified_too(cli, tmp_path) -> None:
    folder_of(tmp_path / "elsewhere", pictures(4))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere" / "dog")
    (tmp_path / "elsewhere" / "dog" / "up").symlink_to(tmp_path / "in")  # there is no end to it
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in" / "own.png")
    assert purify(cli, "in", "out", "--defense", JPEG) == 0
    made = {p.relative_to("out").as_posix() for p in Path("out").rglob("*.png")}
    assert made == {"own.png", "linked/brown/00001.png", "linked/brown/00003.png"}


def test_a_link_to_no_image_is_named(cli, tmp_path) -> None:
    folder_of(tmp_path / "in", pictures(2))
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert purify(cli, "in", "out", "--defense", JPEG) == 2
    assert "image 'gone.png' cannot be read" in cli.err


def stop_at_a_broken_image(cli: CommandLine, tmp_path: Path) -> Path:
    """Purify 22 of 30 images in ``in``, chunks of 8; what stops it is mended, and returned."""
    files = sorted(folder_of(tmp_path / "in", pictures(30)).rglob("*.png"))
    whole, times = files[17].read_bytes(), files[17].stat()
    hurt(files[17], len(whole) // 2)  # the header is fine
    os.utime(files[17], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert purify(cli, "in", "out", "--defense", JPEG) == 1
    files[17].write_bytes(whole)
    os.utime(files[17], ns=(times.st_atime_ns, times.st_mtime_ns))
    return files[17]


@pytest.mark.usefixtures("small_chunks")
def test_what_was_stopped_goes_on_and_nothing_is_done_twice(cli, tmp_path) -> None:
    images = pictures(30)
    source = folder_of(tmp_path / "in", images)
    files = sorted(source.rglob("*.png"))
    broken = files[17]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])  # the header is fine, the pixels are not
    assert purify(cli, source, tmp_path / "out", "--defense", JPEG) == 1
    assert f"image '{broken.relative_to(source)}' cannot be read" in cli.out
    assert "1 chunks failed" in cli.out
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    assert len(done) == 22
    broken.write_bytes(whole)  # of another size and time; nothing has been made of it
    assert purify(cli, source, tmp_path / "out", "--defense", JPEG) == 0
    assert "30 images, 8 to purify" in cli.out
    for path, time_ns in done.items():
        assert path.stat().st_mtime_ns == time_ns
    assert purify(cli, source, tmp_path / "again", "--defense", JPEG) == 0
    for name in ("manifest.json", *(str(p.relative_to(source)) for p in files)):
        both = [(tmp_path / out / name).read_bytes() for out in ("out", "again")]
        assert both[0] == both[1]


def write_source(kind: str, images: np.ndarray) -> None:
    """Write images to ``in``: a folder of bitmaps, an array or a table file."""
    if kind == "":
        Path("in").mkdir(exist_ok=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(Path("in") / f"{index:02d}.bmp")
    elif kind == ".npz":
        np.savez("in.npz", images=images)
    else:
        pq.write_table(pa.table({"image": [png(image) for image in images]}), "in.parquet")


def stopped(cli: CommandLine, kind: str, after: int) -> None:
    """Purify ``in`` until so many images are done, in chunks of 8."""
    purified = job._purify

    def stop(*arguments: object) -> object:
        if arguments[-1] == after:
            raise KeyboardInterrupt
        return purified(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_purify", stop)
        assert purify(cli, f"in{kind}", f"out{kind}", "--defense", JPEG) == 130


def later(path: Path, seconds: int = 1) -> None:
    """Give a file, or all in a folder, another time."""
    for file in path.iterdir() if path.is_dir() else [path]:
        os.utime(file, (seconds, seconds))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["", ".npz", ".parquet"])
def test_files_of_another_time_are_no_hindrance_where_they_hold_the_same(cli, kind) -> None:
    write_source(kind, pictures(30))
    stopped(cli, kind, 16)
    later(Path(f"in{kind}"))
    said = "files that have changed, but not in their pixels: 16"
    stopped(cli, kind, 24)
    assert said in cli.out and "30 images, 14 to purify" in cli.out
    assert purify(cli, f"in{kind}", f"out{kind}", "--defense", JPEG) == 0
    assert said not in cli.out  # it has been noted
    assert "30 images, 6 to purify" in cli.out
    assert purify(cli, f"in{kind}", f"out{kind}", "--defense", JPEG) == 0
    assert "done before" in cli.out
    later(Path(f"in{kind}"), 2)
    assert purify(cli, f"in{kind}", f"out{kind}", "--defense", JPEG) == 2
    assert "was made of the source as it was: names, sizes or times of its files" in cli.err


@pytest.mark.usefixtures("small_chunks")
def test_other_pixels_under_what_is_purified_are_told_and_never_mixed(cli, tmp_path) -> None:
    images = pictures(30)
    write_source("", images)
    stopped(cli, "", 24)
    images[3] = 255 - images[3]
    write_source("", images)
    later(Path("in"))
    Image.fromarray(pictures(1, 48)[0]).save("in/09.bmp")
    Image.fromarray(pictures(1, 48)[0]).save("in/29.bmp")  # of which nothing was made
    assert purify(cli, "in", "out", "--defense", JPEG) == 2
    assert (
        "of 24 that are purified, 2 hold other pixels by now ('03.bmp'), 1 of them in " in cli.err
    )
    assert "of another size; 22 more differ in their files' times or sizes alone" in cli.err
    notes = [f"{tmp_path}/out/.purify/rows-00000000{start}.done.json" for start in (0, 8)]
    assert f"remove '{notes[0]}' and '{notes[1]}' to have their chunks purified again" in cli.err
    for note in notes:  # as the message says
        Path(note).unlink()
    assert purify(cli, "in", "out", "--defense", JPEG) == 0
    assert "30 images, 22 to purify" in cli.out
    assert purify(cli, "in", "again", "--defense", JPEG) == 0
    names = [f"{index:02d}.png" for index in range(30)]
    for name in ("changes.csv", "manifest.json", *names):
        assert (Path("out") / name).read_bytes() == (Path("again") / name).read_bytes()


@pytest.mark.usefixtures("small_chunks")
def test_another_array_under_what_is_purified_is_told(cli) -> None:
    write_source(".npz", pictures(30))
    stopped(cli, ".npz", 16)
    images = pictures(30)
    images[10:] = 255 - images[10:]
    write_source(".npz", images)
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 2
    assert "of 16 that are purified, 6 hold other pixels by now ('images[10]'), 0 of" in cli.err
    write_source(".npz", pictures(30))  # put back
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 0


@pytest.mark.usefixtures("small_chunks")
def test_a_longer_or_shorter_list_of_images_is_told(cli) -> None:
    write_source("", pictures(30))
    stopped(cli, "", 16)
    Path("in/20.bmp").rename("in/x.bmp")
    Path("in/21.bmp").unlink()
    assert purify(cli, "in", "out", "--defense", JPEG) == 2
    assert "begun with other images: 2 are gone ('20.bmp'), 1 new ('x.bmp'). Noise" in cli.err
    Path("in/x.bmp").rename("in/20.bmp")
    write_source("", pictures(30))
    assert purify(cli, "in", "out", "--defense", JPEG) == 0


def test_a_worker_that_lists_other_images_makes_nothing_of_them(cli, monkeypatch) -> None:
    write_source("", pictures(30))
    make = job._make

    def add(*arguments: object) -> object:
        Image.fromarray(pictures(1)[0]).save("in/00a.bmp")
        return make(*arguments)

    monkeypatch.setattr(job, "_make", add)
    assert purify(cli, "in", "out", "--defense", JPEG) == 1
    assert "were added, taken away or renamed meanwhile" in cli.out
    assert not list(Path("out").glob("*.png"))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["", ".npz", ".parquet"])
def test_a_source_that_changes_meanwhile_is_found_before_the_end(cli, monkeypatch, kind) -> None:
    write_source(kind, pictures(30))
    purified = job._purify

    def change(*arguments: object) -> object:
        done = purified(*arguments)
        if arguments[-1] == 8:
            other = pictures(30)
            other[2] = other[20] = 0
            write_source(kind, other)
        return done

    monkeypatch.setattr(job, "_purify", change)
    assert purify(cli, f"in{kind}", f"out{kind}", "--defense", JPEG) == 2
    assert "hold other pixels by now ('" in cli.err
    assert not Path("out.json").exists() and not Path("out/manifest.json").exists()


def test_killed_and_begun_again_with_two_workers(tmp_path) -> None:
    """The same bytes as of one process; chunks that were noted are not made again."""
    images = pictures(1200, 16)
    np.savez(tmp_path / "in.npz", images=images, labels=np.arange(1200))
    raw = {"name": "puregen_ebm", "steps": 2, "ebm": EBM}
    arguments = ["in.npz", "--defense", json.dumps(raw), "--store", "store"]
    command = [sys.executable, "-m", "harness", "purify"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    one = [*command, *arguments, "one.npz", "--in-process"]
    subprocess.run(one, cwd=tmp_path, env=environment, check=True, capture_output=True)
    two = [*command, *arguments, "two.npz"]
    running = subprocess.Popen(
        [*two, "--in-process"], cwd=tmp_path, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    parts = tmp_path / ".two.npz.purify"
    until = time.monotonic() + 120
    while not list(parts.glob("*.done.json")) and time.monotonic() < until:
        time.sleep(0.01)
    running.kill()
    running.wait()
    if (tmp_path / "two.npz").exists():
        pytest.skip("it was done before it could be killed")
    noted = {int(p.name[5:14]) for p in parts.glob("*.done.json")}
    assert noted
    two += ["--cpus", "2"]
    done = subprocess.run(
        two, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    made = {int(row) for row in re.findall(r"from image (\d+) on", done.stdout)}
    assert not made & noted
    assert made | noted <= set(range(0, 1200, 256))
    with np.load(tmp_path / "one.npz") as a, np.load(tmp_path / "two.npz") as b:
        np.testing.assert_array_equal(a["images"], b["images"])
        assert not np.array_equal(a["images"], images)


def test_what_changed_between_two_calls_of_a_process_is_read_anew(cli, tmp_path) -> None:
    images = pictures(6)
    folder_of(tmp_path / "in", images[:4])
    raw = json.dumps({"name": "puregen_ebm", "steps": 2, "ebm": {"path": "ebm"}})
    torch.manual_seed(0)
    save_ebm(tmp_path / "ebm", EnergyNetwork(EBMConfig(nf=8)), {})
    assert purify(cli, "in", "first", "--defense", raw) == 0
    folder_of(tmp_path / "in", images)
    save_ebm(tmp_path / "ebm", EnergyNetwork(EBMConfig(nf=8)), {})
    assert purify(cli, "in", "second", "--defense", raw) == 0
    assert purify(cli, "in", "alone", "--defense", raw, "--store", "other") == 0
    made, wanted = (
        {p.relative_to(out): read(p).tolist() for p in Path(out).rglob("*.png")}
        for out in ("second", "alone")
    )
    assert len(made) == 6
    assert made == wanted


def test_a_job_that_another_began_is_told_what_is_left_of_it(cli, tmp_path) -> None:
    """The folder is hidden, so the message names it."""
    np.savez("in.npz", images=pictures(4))
    folder_of(tmp_path / "in", pictures(4))
    broken = tmp_path / "in" / "cat" / "00000.png"
    broken.write_bytes(broken.read_bytes()[:400])
    assert purify(cli, "in", "out", "--defense", JPEG) == 1
    assert purify(cli, "in", "out", "--defense", JPEG, "--seed", 1) == 2
    assert "was begun by another purification: seed differ (see '" in cli.err
    assert f"give another output, or remove '{tmp_path}/out/.purify' and all else" in cli.err
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 0
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG, "--seed", 1) == 2
    assert f"another purification: seed differ (see '{tmp_path}/out.json'). Give a" in cli.err


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["lacks a field", "other chunks", "damaged"])
def test_chunks_that_another_version_noted_are_made_again(cli, tmp_path, kind) -> None:
    stop_at_a_broken_image(cli, tmp_path)
    note = tmp_path / "out" / ".purify" / "rows-000000008.done.json"
    said = json.loads(note.read_text())
    if kind == "lacks a field":
        del said["environment"]
    said["l2"] = said["l2"][:3] if kind == "other chunks" else said["l2"]
    note.write_text("{" if kind == "damaged" else json.dumps(said))
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    assert purify(cli, "in", "out", "--defense", JPEG) == 0, cli.err
    assert "1 chunks were noted by another version and are made again" in cli.out
    assert sum(p.stat().st_mtime_ns != time_ns for p, time_ns in made.items()) == 8
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["changed"] == 30


@pytest.mark.usefixtures("small_chunks")
def test_a_folder_that_another_version_began_or_made_is_told(cli, tmp_path) -> None:
    stop_at_a_broken_image(cli, tmp_path)
    path = tmp_path / "out" / ".purify" / "job.json"
    whole = path.read_text()
    path.write_text(json.dumps({"source": "in", "version": 1}))
    assert purify(cli, "in", "out", "--defense", JPEG) == 2
    assert "begun by another version, which says nothing of 'defense' and 'seed" in cli.err
    assert f"output, or remove '{tmp_path}/out/.purify' and all else in the output" in cli.err
    path.write_text(whole)
    assert purify(cli, "in", "out", "--defense", JPEG) == 0
    (tmp_path / "out" / "manifest.json").write_text("{}")
    assert purify(cli, "in", "out", "--defense", JPEG) == 2
    assert "was made by another version, which says nothing of 'source' and 'images'" in cli.err


def test_a_ray_that_does_not_answer_leaves_nothing_to_go_on_with(cli, tmp_path) -> None:
    np.savez("in.npz", images=pictures(4))
    folder_of(tmp_path / "in", pictures(4))
    for source, out in (("in.npz", "out.npz"), ("in", "out")):
        arguments = (source, out, "--store", "store", "--address", "127.0.0.1:9")
        assert cli("purify", *arguments, "--defense", JPEG) == 2
        assert "no Ray answers at '127.0.0.1:9'" in cli.err
        assert purify(cli, source, out, "--defense", "jpeg") == 0, cli.err


def test_images_that_were_taken_away_are_not_called_done(cli, tmp_path) -> None:
    np.savez("in.npz", images=pictures(4))
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 0
    made = Path("out.npz").read_bytes()
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 0
    assert "this has been done before" in cli.out
    Path("out.npz").unlink()
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 2
    assert f"'{tmp_path}/out.npz' is no longer there" in cli.err
    for name in ("out.json", "out.changes.csv"):  # as the message says
        assert f"'{tmp_path}/{name}'" in cli.err
        Path(name).unlink()
    assert purify(cli, "in.npz", "out.npz", "--defense", JPEG) == 0
    assert Path("out.npz").read_bytes() == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone", "out"), "'.*gone' does not exist"),
        (("text.txt", "out"), "is no folder, .npz or .parquet file"),
        (("empty", "out"), "holds no image file"),
        (("in", "out.npz"), "the source is a folder, and so is the output"),
        (("in", "in/out"), "lies in the source"),
        (("in", "full"), "is there already"),
        (("twins", "out"), "two files .* would become 'a.png'"),
        (("bad", "out"), "image 'x.png' cannot be read"),
        (("in", "text.txt/out"), "out' cannot be written: '.*text.txt' is no folder"),
        (("good.npz", "text.txt/out.npz"), "cannot be written: '.*text.txt' is no folder"),
        (("good.npz", "noted.npz"), "'.*noted.changes.csv' is there already"),
        (("good.npz", "folder.npz"), "'.*folder.npz' is there already"),
        (("in", "out", "--defense", "{name: puregen_ebm, ebm: {path: in}}"), "puregen_ebm'.ebm: "),
        (("in", "out", "--column", "x"), "--column is for .npz and .parquet"),
        (("two.npz", "out.npz"), "2 arrays of uint8 images"),
        (("two.npz", "out.npz", "--column", "c"), "no array 'c' of uint8 images; it holds a, b, n"),
        (("bad.npz", "out.npz"), "cannot be read as .npz"),
        (("bad.parquet", "out.parquet"), "cannot be read as Parquet"),
        (("plain.parquet", "out.parquet"), "no column of image bytes"),
        (("hurt.npz", "out.npz"), "hurt.npz' is damaged: .*'images.npy'"),
        (("hurt_labels.npz", "out.npz"), "hurt_labels.npz' is damaged: .*'labels.npy'"),
        (("hurt_packed.npz", "out.npz"), "hurt_packed.npz' is damaged: "),
        (("hurt.parquet", "out.parquet"), "hurt.parquet' is damaged: "),
        (("in", "out", "--defense", "jpg"), "Did you mean 'jpeg'"),
        (("in", "out", "--defense", "none"), "does not purify images one by one"),
        (("in", "out", "--defense", "perfect_filter"), "does not purify images one by one"),
        (("in", "out", "--defense", "epic"), "'epic' acts in the training"),
        (("in", "out", "--defense", "friends"), "'friends' acts in the training"),
        (("in", "out", "--defense", HALF), "'chain' acts in the training, in part"),
        (("in", "out", "--defense", "puregen_ebm"), "puregen_ebm.* needs 'ebm'"),
        (("in", "out", "--set", "quality=101"), "quality"),
        (("odd", "out", "--defense", json.dumps({"name": "puregen_ebm", "ebm": EBM})), "'x.png': "),
        (("good.npz", "out.npz", "--defense", FAR), "horizon of 30 time steps; 31 are too many"),
    ],
)
def test_what_cannot_be_purified(cli, tmp_path, arguments, message, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(Path("in"), pictures(2))
    for name in ("empty", "full", "twins", "bad", "odd", "folder.npz"):
        Path(name).mkdir()
    for name in (
        "text.txt", "full/x", "bad/x.png", "bad.npz", "bad.parquet", "noted.changes.csv"
    ):  # fmt: skip
        Path(name).write_text("x")
    for name in ("a.png", "a.bmp"):
        Image.fromarray(pictures(1)[0]).save(Path("twins") / name)
    Image.fromarray(pictures(1)[0][:31]).save(Path("odd") / "x.png")
    np.savez("good.npz", images=pictures(2))
    np.savez("two.npz", a=pictures(2), b=pictures(2), n=np.arange(2))
    pq.write_table(pa.table({"label": [1, 2]}), "plain.parquet")
    columns = {"images": pictures(9), "labels": np.arange(500)}
    np.savez("hurt.npz", **columns)
    np.savez("hurt_labels.npz", **columns)
    np.savez_compressed("hurt_packed.npz", **columns)
    pq.write_table(pa.table({"image": [png(i) for i in pictures(9)]}), "hurt.parquet")
    for name, place in (("hurt", 9000), ("hurt_labels", -1000), ("hurt_packed", 9000)):
        hurt(Path(f"{name}.npz"), place)
    hurt(Path("hurt.parquet"), 4)
    given = arguments if "--defense" in arguments else (*arguments, "--defense", "jpeg")
    before = sorted(p for p in tmp_path.rglob("*") if "store" not in p.parts)
    assert purify(cli, *given) == 2, cli.out
    assert re.search(message, cli.err), cli.err
    assert "Traceback" not in cli.err
    assert sorted(p for p in tmp_path.rglob("*") if "store" not in p.parts) == before
