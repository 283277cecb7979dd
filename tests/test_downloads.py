"""Sources that are downloaded, tried on tiny archives of the published formats."""

import hashlib
import io
import pickle
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from harness.core.errors import DataError, UsageError
from harness.core.paths import cache_dir, home, store_dir
from harness.datasets._archive import fetch, unpack, unpacked
from harness.datasets._cifar import from_torchvision
from harness.datasets._common import TEST_IDS
from harness.datasets.cifar10 import Cifar10
from harness.datasets.cifar100 import Cifar100
from harness.datasets.cinic10 import Cinic10
from harness.datasets.tiny_imagenet import TinyImagenet

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nobody listens


def md5(data):
    return hashlib.md5(data).hexdigest()


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(files, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, to in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            archive.addfile(info)
    return buffer.getvalue()


def picture(level, side, kind="PNG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (side, side), (level,) * 3 if mode == "RGB" else level).save(buffer, kind)
    return buffer.getvalue()


@contextmanager
def served(data, cut=0):
    """Serve some bytes at every path; withhold the last ``cut`` of them."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) - cut])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def everything_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_the_home_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PUREGEN_BENCH_HOME", str(tmp_path))
    assert (home(), cache_dir(), store_dir()) == (
        tmp_path, tmp_path / "datasets", tmp_path / "store",
    )  # fmt: skip
    monkeypatch.setenv("PUREGEN_BENCH_HOME", "here")
    assert home() == Path.cwd() / "here"
    monkeypatch.delenv("PUREGEN_BENCH_HOME")
    assert home() == Path.home() / ".cache" / "puregen-bench"


class TestFetch:
    def test_a_file_is_downloaded_once(self, tmp_path):
        with served(b"some data") as (base, asked):
            for _ in range(2):
                fetch(f"{base}/a.zip", md5(b"some data"), tmp_path / "new" / "a.zip")
        assert asked == ["/a.zip"]
        assert (tmp_path / "new" / "a.zip").read_bytes() == b"some data"
        assert everything_in(tmp_path) == ["new", "new/a.zip"]

    def test_another_checksum_is_an_error_and_the_download_is_not_kept(self, tmp_path):
        (tmp_path / "other.zip").write_bytes(b"of the user")
        with (
            served(b"other data") as (base, _),
            pytest.raises(UsageError, match=f"expected MD5 0123, got {md5(b'other data')}"),
        ):
            fetch(f"{base}/a.zip", "0123", tmp_path / "a.zip")
        assert everything_in(tmp_path) == ["other.zip"]

    def test_a_file_that_was_there_with_another_checksum_is_left_alone(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(b"of the user")
        with pytest.raises(UsageError, match=r"a\.zip is another file.*expected MD5 0123, got"):
            fetch(f"{NOWHERE}a.zip", "0123", tmp_path / "a.zip")
        assert (tmp_path / "a.zip").read_bytes() == b"of the user"

    def test_an_interrupted_download_leaves_nothing(self, tmp_path):
        data = bytes(3_000_000)
        with (
            served(data, cut=1000) as (base, _),
            pytest.raises(UsageError, match="cannot be downloaded"),
        ):
            fetch(f"{base}/a.zip", md5(data), tmp_path / "a.zip")
        assert everything_in(tmp_path) == []

    def test_an_interrupted_program_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("harness.datasets._archive.shutil.copyfileobj", interrupted)
        with served(b"data") as (base, _), pytest.raises(KeyboardInterrupt):
            fetch(f"{base}/a.zip", md5(b"data"), tmp_path / "a.zip")
        assert everything_in(tmp_path) == []

    def test_without_a_network_the_message_says_where_to_put_the_file(self, tmp_path):
        with pytest.raises(UsageError, match=r"cannot be downloaded.*put the file \(MD5 0123\) at"):
            fetch(f"{NOWHERE}a.zip", "0123", tmp_path / "a.zip")
        assert everything_in(tmp_path) == []

    def test_a_missing_page_is_an_error(self, tmp_path):
        url = (tmp_path / "none.zip").as_uri()
        with pytest.raises(UsageError, match=r"none\.zip cannot be downloaded"):
            fetch(url, "0123", tmp_path / "a.zip")


class TestUnpack:
    @pytest.mark.parametrize("make", [zip_of, tar_of])
    def test_a_single_folder_at_the_top_is_left_out(self, tmp_path, make):
        flat, nested = {"train/a": b"1", "test/b": b"2"}, {"top/train/a": b"1", "top/test/b": b"2"}
        for name, files in (("flat", flat), ("nested", nested)):
            (tmp_path / "archive").write_bytes(make(files))
            unpack(tmp_path / "archive", tmp_path / name)
            assert everything_in(tmp_path / name) == ["test", "test/b", "train", "train/a"]
            assert (tmp_path / name / "test" / "b").read_bytes() == b"2"

    @pytest.mark.parametrize(
        "data",
        [
            zip_of({"ok": b"1", "../evil": b"2"}),
            zip_of({"ok": b"1", "a/../../evil": b"2"}),
            zip_of({"ok": b"1", "/evil": b"2"}),
            tar_of({"ok": b"1", "../evil": b"2"}),
            tar_of({"ok": b"1"}, links=[("link", "../../..")]),
            tar_of({"ok": b"1"}, links=[("link", "/etc")]),
        ],
    )
    def test_members_outside_the_folder_are_refused(self, tmp_path, data):
        root = tmp_path / "deep" / "root"
        root.mkdir(parents=True)
        (root / "archive").write_bytes(data)
        with pytest.raises(DataError, match="archive"):
            unpack(root / "archive", root / "content")
        assert everything_in(tmp_path) == ["deep", "deep/root", "deep/root/archive"]

    @pytest.mark.parametrize("make", [zip_of, tar_of])
    def test_damage_is_an_error_and_leaves_nothing(self, tmp_path, make):
        whole = make({f"f{i}": np.random.default_rng(i).bytes(5000) for i in range(5)})
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 255
        damaged = [whole[: len(whole) // 2], b"", b"no archive"]
        if make is zip_of:  # a tar file has no checksum of its own; that of the archive finds it
            damaged.append(bytes(broken))
        for data in damaged:
            (tmp_path / "archive").write_bytes(data)
            with pytest.raises(DataError, match="cannot be unpacked"):
                unpack(tmp_path / "archive", tmp_path / "content")
            assert everything_in(tmp_path) == ["archive"]

    def test_a_process_that_was_faster_is_no_error(self, tmp_path):
        (tmp_path / "archive").write_bytes(zip_of({"a": b"1", "b": b"2"}))
        (tmp_path / "content").mkdir()
        (tmp_path / "content" / "a").write_bytes(b"theirs")
        unpack(tmp_path / "archive", tmp_path / "content")
        assert (tmp_path / "content" / "a").read_bytes() == b"theirs"
        assert everything_in(tmp_path) == ["archive", "content", "content/a"]

    def test_what_is_unpacked_needs_no_archive(self, tmp_path):
        data = zip_of({"a": b"1"})
        with served(data) as (base, asked):
            for _ in range(2):
                folder = unpacked(f"{base}/x.zip", md5(data), tmp_path, "x")
                (tmp_path / "x.zip").unlink(missing_ok=True)
        assert (len(asked), folder) == (1, tmp_path / "x")


class TestCinic10:
    @pytest.fixture
    def source(self, tmp_path, monkeypatch):
        """A source whose archive has two classes; each grey level is the row's place."""
        order = [
            "airplane/cifar10-train-7.png",
            "airplane/n01_2.png",
            "airplane/n01_30.png",
            "dog/cifar10-train-10.png",
            "dog/cifar10-train-9.png",
            "dog/n00_5.png",
        ]
        files = {"README": b"text", "valid/dog/n1.png": picture(0, 32)}
        for split, base in (("test", 100), ("train", 0)):
            for place in reversed(range(len(order))):
                files[f"{split}/{order[place]}"] = picture(base + place, 32)
        (tmp_path / "CINIC-10.tar.gz").write_bytes(tar_of(files))
        monkeypatch.setattr(Cinic10, "md5", md5((tmp_path / "CINIC-10.tar.gz").read_bytes()))
        monkeypatch.setattr(Cinic10, "rows", {"train": 6, "test": 6})
        return tmp_path

    @pytest.mark.parametrize(
        ("part", "places"),
        [("all", [0, 1, 2, 3, 4, 5]), ("imagenet", [1, 2, 5]), ("cifar", [0, 3, 4])],
    )
    def test_rows_have_the_order_and_ids_of_the_whole_split(self, source, part, places):
        data = Cinic10(root=source, part=part).load()
        assert data.class_names == ("airplane", "dog")
        assert data.train.images[:, 0, 0, 0].tolist() == places
        assert data.train.ids.tolist() == places
        assert data.train.labels.tolist() == [int(p > 2) for p in places]
        assert data.test.images[:, 2, 31, 31].tolist() == [100 + p for p in places]
        assert data.test.ids.tolist() == [TEST_IDS + p for p in places]

    def test_the_cache_is_the_default_place_and_is_filled_from_the_address(
        self, source, monkeypatch
    ):
        monkeypatch.setenv("PUREGEN_BENCH_HOME", str(source / "home"))
        with served((source / "CINIC-10.tar.gz").read_bytes()) as (base, asked):
            monkeypatch.setattr(Cinic10, "url", f"{base}/x/CINIC-10.tar.gz")
            first, second = Cinic10().load(), Cinic10().load()
        assert asked == ["/x/CINIC-10.tar.gz"]
        assert first.train.digest == second.train.digest
        assert sorted(p.name for p in cache_dir().iterdir()) == ["CINIC-10", "CINIC-10.tar.gz"]

    def test_a_missing_image_is_an_error(self, source):
        Cinic10(root=source).load()
        (source / "CINIC-10" / "train" / "dog" / "n00_5.png").unlink()
        with pytest.raises(DataError, match="must hold 6 images; it holds 5"):
            Cinic10(root=source).load()


class TestTinyImagenet:
    @pytest.fixture
    def source(self, tmp_path, monkeypatch):
        """A source with two classes; each grey level is the row's place."""
        top, files = "tiny-imagenet-200", {}
        # Published order of the class list is not the sorted one.
        files[f"{top}/wnids.txt"] = b"n02\nn01\n"
        place = 0
        for wnid in ("n01", "n02"):
            files[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = b"0 0 1 1\n"
            for number in (0, 1, 10, 11, 2):  # as strings sort
                kind, mode = ("JPEG", "L" if number == 2 else "RGB")
                name = f"{top}/train/{wnid}/images/{wnid}_{number}.JPEG"
                files[name] = picture(10 * place, 64, kind, mode)
                place += 1
        lines = []
        for number, wnid, level in ((2, "n01", 200), (10, "n02", 150), (1, "n02", 100)):
            files[f"{top}/val/images/val_{number}.JPEG"] = picture(level, 64, "JPEG")
            lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
        files[f"{top}/val/val_annotations.txt"] = "".join(lines).encode()
        files[f"{top}/test/images/test_0.JPEG"] = picture(0, 64, "JPEG")
        (tmp_path / "tiny-imagenet-200.zip").write_bytes(zip_of(files))
        monkeypatch.setattr(
            TinyImagenet, "md5", md5((tmp_path / "tiny-imagenet-200.zip").read_bytes())
        )
        monkeypatch.setattr(TinyImagenet, "rows", {"train": 10, "val": 3})
        return tmp_path

    def test_rows_are_sorted_by_path_and_classes_by_wordnet_id(self, source):
        data = TinyImagenet(root=source).load()
        assert data.class_names == ("n01", "n02")
        assert data.train.image_shape == (3, 64, 64)
        np.testing.assert_allclose(data.train.images[:, :, 30, 30].mean(1), 10 * np.arange(10))
        assert data.train.labels.tolist() == [0] * 5 + [1] * 5
        np.testing.assert_allclose(data.test.images[:, 1, 30, 30], [100, 150, 200])
        assert data.test.labels.tolist() == [1, 1, 0]
        assert data.test.ids.tolist() == [TEST_IDS, TEST_IDS + 1, TEST_IDS + 2]

    def test_images_can_be_resized(self, source):
        assert TinyImagenet(root=source, size=32).load().test.image_shape == (3, 32, 32)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("val_1.JPEG\n", "no list of files and classes"),
            ("val_1.JPEG\tn09\t0\n", "no list of files and classes.*n09"),
            ("val_1.JPEG\tn01\t0\n", "must hold 3 images; it holds 1"),
            ("val_1.JPEG\tn01\nval_7.JPEG\tn01\nval_2.JPEG\tn01\n", r"val_7\.JPEG is no readable"),
        ],
    )
    def test_damaged_annotations_are_an_error(self, source, text, message):
        TinyImagenet(root=source).load()
        (source / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            TinyImagenet(root=source).load()


class TestCifar:
    def test_arrays_and_targets_become_rows_in_their_order(self):
        data = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        train = SimpleNamespace(data=data, targets=[3, 0, 1, 2], classes=["a", "b", "c", "d"])
        test = SimpleNamespace(data=data[:2], targets=[1, 1], classes=train.classes)
        mapped = from_torchvision(train, test)
        assert mapped.class_names == ("a", "b", "c", "d")
        assert mapped.train.ids.tolist() == [0, 1, 2, 3]
        assert mapped.train.labels.tolist() == [3, 0, 1, 2]
        assert mapped.train.images[2, 1, 5, 9] == data[2, 5, 9, 1]
        assert mapped.test.ids.tolist() == [TEST_IDS, TEST_IDS + 1]

    @pytest.mark.parametrize(
        ("source", "kind", "label_key", "meta_key"),
        [
            (Cifar10, torchvision.datasets.CIFAR10, "labels", "label_names"),
            (Cifar100, torchvision.datasets.CIFAR100, "fine_labels", "fine_label_names"),
        ],
    )
    def test_an_archive_in_the_published_format(
        self, tmp_path, monkeypatch, source, kind, label_key, meta_key
    ):
        data = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
        batches = {
            "one": {"data": data[:2].reshape(2, -1), label_key: [1, 0]},
            "two": {"data": data[2:4].reshape(2, -1), label_key: [0, 1]},
            "last": {"data": data[4:].reshape(1, -1), label_key: [1]},
            "meta": {meta_key: ["ant", "bee"]},
        }
        files = {name: pickle.dumps(batch) for name, batch in batches.items()}
        sums = {name: md5(content) for name, content in files.items()}
        archive = tar_of({f"{kind.base_folder}/{n}": content for n, content in files.items()})
        monkeypatch.setattr(kind, "train_list", [["one", sums["one"]], ["two", sums["two"]]])
        monkeypatch.setattr(kind, "test_list", [["last", sums["last"]]])
        meta = {"filename": "meta", "key": meta_key, "md5": sums["meta"]}
        monkeypatch.setattr(kind, "meta", meta)
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
        with served(archive) as (base, _):
            monkeypatch.setattr(kind, "url", f"{base}/{kind.filename}")
            loaded = source(root=tmp_path).load()
        np.testing.assert_array_equal(loaded.train.images, data[:4])
        assert loaded.train.labels.tolist() == [1, 0, 0, 1]
        assert loaded.test.labels.tolist() == [1]
        assert loaded.class_names == ("ant", "bee")
        (tmp_path / kind.base_folder / "two").write_bytes(b"damaged")
        with pytest.raises(UsageError, match=f"{kind.base_folder} is damaged"):
            source(root=tmp_path).load()

    @pytest.mark.parametrize(
        ("source", "kind"),
        [(Cifar10, torchvision.datasets.CIFAR10), (Cifar100, torchvision.datasets.CIFAR100)],
    )
    def test_without_a_network_there_is_one_clear_message(
        self, tmp_path, monkeypatch, source, kind
    ):
        monkeypatch.setattr(kind, "url", NOWHERE + kind.filename)
        with pytest.raises(UsageError, match=f"cannot be downloaded.*{kind.filename}"):
            source(root=tmp_path).load()
        assert everything_in(tmp_path) == []
