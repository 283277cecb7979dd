"""Sources that read a user's own files: arrays and folders of images."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.files import read_arrays
from harness.core.protocols import DATASETS
from harness.datasets._common import TEST_IDS, make_dataset
from harness.datasets.image_folder import ImageFolder
from harness.datasets.npz import Npz
from harness.datasets.resized import Resized

SHARED = Path(
    os.environ.get("PUREGEN_BENCH_SHARED", Path(__file__).resolve().parents[2] / "shared")
)


def pixels(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_every_source_is_described():
    assert {"shapes", "npz", "image_folder", "cifar10", "cifar100", "cinic10", "tiny_imagenet"} <= {
        entry.name for entry in DATASETS
    }
    for entry in DATASETS:
        assert entry.summary
        assert all(p.doc for p in entry.parameters.values()), entry.name
        assert hasattr(entry.factory, "example")


def test_a_rows_id_is_its_place_in_the_source(rng):
    data = make_dataset(
        pixels(rng, 2, 3, 4, 4), [0, 1], pixels(rng, 1, 3, 4, 4), np.array([1], np.uint8), "ab",
        train_rows=[7, 3],
    )  # fmt: skip
    assert data.train.ids.tolist() == [7, 3]
    assert data.test.ids.tolist() == [TEST_IDS]
    assert data.test.labels.dtype == np.int64


class TestNpz:
    @pytest.fixture
    def save(self, tmp_path):
        def save(**arrays):
            np.savez(tmp_path / "own.npz", **arrays)
            return tmp_path / "own.npz"

        return save

    def test_channels_last_and_first_give_the_same_rows(self, save, rng):
        x, y = pixels(rng, 6, 8, 9, 3), [0, 1, 2, 0, 1, 2]
        last = Npz(path=save(x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])).load()
        first = Npz(
            path=save(
                x_train=x.transpose(0, 3, 1, 2), y_train=y,
                x_test=x[:2].transpose(0, 3, 1, 2), y_test=y[:2],
            )
        ).load()  # fmt: skip
        assert last.train.image_shape == (3, 8, 9)
        assert last.train.images[4, 2, 7, 5] == x[4, 7, 5, 2]
        assert last.train.digest == first.train.digest
        assert last.test.digest == first.test.digest
        assert last.class_names == ("0", "1", "2")

    def test_grey_images_have_one_channel(self, save, rng):
        x = pixels(rng, 4, 8, 8)
        data = Npz(path=save(images=x, labels=[0, 0, 1, 1])).load()
        np.testing.assert_array_equal(data.train.images[:, 0], x)

    @pytest.mark.parametrize("fit", ["squash", "crop"])
    def test_another_size_changes_pixels_alone_of_both_sets(self, save, fit):
        sides = np.zeros((3, 8, 16, 3), np.uint8)
        sides[:, :, 4:12] = np.array([90, 91, 92], np.uint8)[:, None, None, None]
        path = save(x_train=sides, y_train=[0, 1, 1], x_test=sides[1:], y_test=[1, 0])
        whole, small = Npz(path=path).load(), Npz(path=path, size=4, fit=fit).load()
        for part, of in ((small.train, whole.train), (small.test, whole.test)):
            assert part.images.shape == (len(of), 3, 4, 4)
            assert part.labels.tolist() == of.labels.tolist()
            assert part.ids.tolist() == of.ids.tolist()
            border, middle = part.images[:, 0, 2, 0], part.images[:, 0, 2, 2]
            assert (border == middle).all() == (fit == "crop")
        assert Npz(path=path, size=4, fit="crop").load().test.images[1, 0, 2, 2] == 92
        with pytest.raises(DataError, match="at least 1 pixel; got 0"):
            Npz(path=path, size=0)

    def test_without_a_share_there_is_no_test_set(self, save, rng):
        data = Npz(path=save(images=pixels(rng, 3, 8, 8, 3), labels=[0, 1, 1])).load()
        assert len(data.train) == 3
        assert data.test.images.shape == (0, 3, 8, 8)

    def test_a_share_is_drawn_per_class_by_seed_and_keeps_ids(self, save, rng):
        labels = np.array([0] * 20 + [1] * 10 + [2] * 1)
        images = pixels(rng, 31, 4, 4, 3)
        path = save(images=images, labels=labels)
        data = Npz(path=path, test_share=0.3).load()
        assert np.bincount(data.test.labels, minlength=3).tolist() == [6, 3, 0]
        rows = np.concatenate([data.train.ids, data.test.ids - TEST_IDS])
        assert sorted(rows.tolist()) == list(range(31))
        assert (np.diff(data.train.ids) > 0).all()
        for part, first_id in ((data.train, 0), (data.test, TEST_IDS)):
            rows = part.ids - first_id
            np.testing.assert_array_equal(part.images, images[rows].transpose(0, 3, 1, 2))
            np.testing.assert_array_equal(part.labels, labels[rows])
        again, other = (Npz(path=path, test_share=0.3, seed=s).load() for s in (0, 1))
        assert again.test.digest == data.test.digest
        assert again.train.digest == data.train.digest
        assert other.test.ids.tolist() != data.test.ids.tolist()

    def test_class_names_and_number_of_classes_can_be_given(self, save, rng):
        x = pixels(rng, 2, 8, 8, 3)
        named = save(images=x, labels=[0, 1], class_names=np.array(["ant", "bee", "cat"]))
        assert Npz(path=named).load().class_names == ("ant", "bee", "cat")
        with pytest.raises(DataError, match="3 class_names, but num_classes is 4"):
            Npz(path=named, num_classes=4).load()
        plain = save(images=x, labels=[0, 1])
        assert Npz(path=plain, num_classes=5).load().train.num_classes == 5
        with pytest.raises(DataError, match=r"0\.\.0 for 1 classes; the largest is 1"):
            Npz(path=plain, num_classes=1).load()

    def test_an_ambiguous_layout_is_an_error_until_it_is_given(self, save, rng):
        path = save(images=pixels(rng, 2, 3, 8, 3), labels=[0, 1])
        with pytest.raises(DataError, match=r"ambiguous.*Give layout"):
            Npz(path=path).load()
        assert Npz(path=path, layout="NHWC").load().train.image_shape == (3, 3, 8)
        assert Npz(path=path, layout="NCHW").load().train.image_shape == (3, 8, 3)
        four = save(images=pixels(rng, 2, 8, 8, 4), labels=[0, 1])
        with pytest.raises(DataError, match="neither"):
            Npz(path=four).load()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": np.zeros((2, 4, 4, 3))}, r"uint8.*got float64.*floor\(255 \* x \+ 0\.5\)"),
            ({"images": np.zeros((2, 4, 4, 3), np.int64)}, "uint8.*got int64"),
            ({"images": np.zeros((2, 48), np.uint8)}, r"must have the shape.*\(2, 48\)"),
            ({"images": np.zeros((2, 0, 4, 3), np.uint8)}, r"must have the shape.*\(2, 0, 4, 3\)"),
            ({"images": np.zeros((3, 4, 4, 3), np.uint8)}, "3 rows, labels 2"),
            ({"labels": np.array([0.0, np.nan])}, "integers.*float64"),
            ({"labels": np.array([True, False])}, "integers.*bool"),
            ({"labels": np.eye(2, dtype=int)}, r"integers.*\(2, 2\)"),
            ({"labels": np.array([0, -1])}, "range from -1 to 0"),
            ({"labels": np.array([0, 2**40])}, "range from 0"),
            ({"labels": np.array([0, 900])}, "largest label.*900.*only 2"),
            ({"labels": np.array([0, "1"], object)}, "cannot be read"),
            ({"images": np.zeros((0, 4, 4, 3), np.uint8), "labels": np.zeros(0, int)}, "no rows"),
            ({"class_names": np.array([1, 2])}, "list of strings"),
        ],
    )  # fmt: skip
    def test_arrays_that_cannot_be_right_are_refused(self, save, change, message):
        good = {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.array([0, 1])}
        with pytest.raises(DataError, match=message):
            Npz(path=save(**good | change)).load()

    def test_other_keys_are_named(self, save):
        with pytest.raises(DataError, match=r"must hold x_train.*it holds X, y"):
            Npz(path=save(X=[1], y=[1])).load()

    def test_a_share_of_a_file_with_a_test_set_or_of_too_few_rows_is_refused(self, save, rng):
        x = pixels(rng, 4, 8, 8, 3)
        y = [0, 1, 0, 1]
        with pytest.raises(DataError, match="test set of its own"):
            Npz(path=save(x_train=x, y_train=y, x_test=x, y_test=y), test_share=0.5).load()
        with pytest.raises(DataError, match="leaves no test image"):
            Npz(path=save(images=x, labels=y), test_share=0.1).load()
        for share in (-0.1, 1.0, float("nan")):
            with pytest.raises(DataError, match="test_share"):
                Npz(path=Path("x.npz"), test_share=share)

    def test_files_that_are_no_archive_of_arrays_are_refused(self, tmp_path, save, rng):
        with pytest.raises(DataError, match="does not exist"):
            Npz(path=tmp_path / "none.npz").load()
        with pytest.raises(DataError, match="cannot be read"):
            Npz(path=tmp_path).load()
        path = save(images=pixels(rng, 8, 8, 8, 3), labels=np.arange(8))
        data = bytearray(path.read_bytes())
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match="cannot be read"):
            Npz(path=path).load()
        data[len(data) // 4] ^= 255
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read"):
            Npz(path=path).load()
        path.write_bytes(b"")
        with pytest.raises(DataError, match="cannot be read"):
            Npz(path=path).load()
        np.save(tmp_path / "one.npy", np.zeros(3))
        with pytest.raises(DataError, match="single array"):
            Npz(path=tmp_path / "one.npy").load()

    @pytest.mark.parametrize("content", [b"text", b"\x80\x04N.", pickle.dumps([1]), b""])
    def test_nobody_is_advised_to_unpickle_a_file(self, tmp_path, content):
        path = tmp_path / "x.npz"
        path.write_bytes(content)
        for read in (Npz(path=path).load, lambda: read_arrays(path)):
            with pytest.raises(
                DataError, match=r"it is no whole zip of arrays, as numpy\.savez"
            ) as told:
                read()
            assert "pickle" not in str(told.value)
        np.savez(path, x=np.array([{}], object))
        for read in (Npz(path=path).load, lambda: read_arrays(path)):
            with pytest.raises(DataError, match="it holds Python objects") as told:
                read()
            assert "pickle" not in str(told.value)
        np.save(tmp_path / "one.npy", np.zeros(3))
        with pytest.raises(DataError, match="no whole zip of arrays"):
            read_arrays(tmp_path / "one.npy")

    def test_a_pickle_is_never_run(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        (tmp_path / "evil.npz").write_bytes(pickle.dumps(Bomb()))
        np.savez(tmp_path / "inside.npz", images=np.array([Bomb()]), labels=[0])
        for name in ("evil.npz", "inside.npz"):
            with pytest.raises(DataError, match="cannot be read"):
                Npz(path=tmp_path / name).load()
        assert not (tmp_path / "ran").exists()

    @pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder of real data at {SHARED}")
    def test_real_images(self):
        cifar = Npz(path=SHARED / "data" / "cifar10_mini.npz").load()
        assert (len(cifar.train), len(cifar.test)) == (5085, 1017)
        assert (cifar.train.image_shape, cifar.train.num_classes) == ((3, 32, 32), 10)
        pood = Npz(path=SHARED / "data" / "pood32.npz").load()
        assert (len(pood.train), len(pood.test), pood.train.num_classes) == (20000, 0, 200)


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path, rng):
        for split, count in (("train", 3), ("test", 2)):
            for name in ("cat", "ant"):
                (tmp_path / split / name).mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(pixels(rng, 6, 5, 3)).save(
                        tmp_path / split / name / f"{name}{i}.png"
                    )
        return tmp_path

    def test_classes_and_files_are_sorted(self, folder):
        (folder / "train" / "ant" / ".DS_Store").write_bytes(b"x")
        data = ImageFolder(path=folder).load()
        assert data.class_names == ("ant", "cat")
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.test.labels.tolist() == [0, 0, 1, 1]
        stored = np.asarray(Image.open(folder / "train" / "cat" / "cat1.png"))
        np.testing.assert_array_equal(data.train.images[4], stored.transpose(2, 0, 1))
        stored = np.asarray(Image.open(folder / "test" / "ant" / "ant0.png"))
        np.testing.assert_array_equal(data.test.images[0], stored.transpose(2, 0, 1))

    def test_val_stands_in_for_test_and_classes_alone_have_none(self, folder):
        whole = ImageFolder(path=folder).load()
        (folder / "test").rename(folder / "val")
        assert ImageFolder(path=folder).load().test.digest == whole.test.digest
        data = ImageFolder(path=folder / "train").load()
        assert data.train.digest == whole.train.digest
        assert len(data.test) == 0

    def test_images_of_two_sizes_are_an_error_that_names_both(self, folder, rng):
        Image.fromarray(pixels(rng, 7, 5, 3)).save(folder / "test" / "cat" / "cat1.png")
        with pytest.raises(DataError, match=r"ant0\.png has 5x6 pixels, .*cat1\.png has 5x7"):
            ImageFolder(path=folder).load()
        assert ImageFolder(path=folder, size=4).load().test.image_shape == (3, 4, 4)

    def test_folders_behind_links_are_read(self, folder):
        whole = ImageFolder(path=folder).load()
        (folder / "train" / "cat").rename(folder / "cats")
        (folder / "train" / "cat").mkdir()
        (folder / "train" / "cat" / "linked").symlink_to(folder / "cats")
        (folder / "cats" / "back").symlink_to(folder / "train" / "cat")
        assert ImageFolder(path=folder).load().train.digest == whole.train.digest

    def test_pixels_are_taken_as_stored(self, folder):
        exif = Image.Exif()
        exif[274] = 3
        path = folder / "train" / "ant" / "ant0.png"
        stored = Image.open(path).copy()
        stored.save(path, exif=exif)
        images = ImageFolder(path=folder).load().train.images
        np.testing.assert_array_equal(images[0], np.asarray(stored).transpose(2, 0, 1))

    def test_resizing_squashes_to_a_square(self, tmp_path):
        (tmp_path / "one").mkdir()
        image = np.zeros((8, 16, 3), np.uint8)
        image[:, 8:] = 200
        Image.fromarray(image).save(tmp_path / "one" / "a.png")
        resized = ImageFolder(path=tmp_path, size=4).load().train.images[0, 0]
        assert resized.shape == (4, 4)
        assert (resized[:, 0] == 0).all()
        assert (resized[:, 3] == 200).all()

    def test_cropping_takes_the_square_in_the_middle(self, tmp_path):
        (tmp_path / "one").mkdir()
        image = np.zeros((8, 16, 3), np.uint8)
        image[:, 4:12] = 90
        Image.fromarray(image).save(tmp_path / "one" / "a.png")
        assert (ImageFolder(path=tmp_path, size=4, fit="crop").load().train.images == 90).all()

    def test_grey_and_transparent_images_become_rgb_and_16_bits_are_refused(self, tmp_path, rng):
        (tmp_path / "one").mkdir()
        grey = pixels(rng, 4, 4)
        Image.fromarray(grey).save(tmp_path / "one" / "a.png")
        Image.fromarray(pixels(rng, 4, 4, 4), "RGBA").save(tmp_path / "one" / "b.png")
        data = ImageFolder(path=tmp_path).load()
        assert (data.train.images[0] == grey).all()
        assert data.train.image_shape == (3, 4, 4)
        Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "one" / "c.png")
        with pytest.raises(DataError, match=r"c\.png has more than 8 bits"):
            ImageFolder(path=tmp_path).load()

    @pytest.mark.parametrize("damage", [b"", b"no image", None])
    def test_a_damaged_file_is_named(self, folder, damage):
        path = folder / "train" / "cat" / "cat2.png"
        path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
        with pytest.raises(DataError, match=r"cat2\.png is no readable image"):
            ImageFolder(path=folder).load()

    def test_an_empty_class_is_named(self, folder):
        (folder / "train" / "bee").mkdir()
        (folder / "test" / "bee").mkdir()
        with pytest.raises(DataError, match="class 'bee' has no images"):
            ImageFolder(path=folder).load()

    def test_splits_with_other_classes_are_refused(self, folder):
        (folder / "test" / "cat").rename(folder / "test" / "dog")
        with pytest.raises(DataError, match="same class folders; only one has cat, dog"):
            ImageFolder(path=folder).load()

    def test_folders_of_another_kind_are_refused(self, folder, tmp_path):
        with pytest.raises(DataError, match="cannot be read as a folder"):
            ImageFolder(path=tmp_path / "none").load()
        with pytest.raises(DataError, match="has no class folders"):
            ImageFolder(path=folder / "train" / "cat").load()
        (folder / "train").rename(folder / "other")
        with pytest.raises(DataError, match="'test' but no folder 'train'"):
            ImageFolder(path=folder).load()
        with pytest.raises(DataError, match="size"):
            ImageFolder(path=folder, size=0)


class TestResized:
    @pytest.mark.parametrize("fit", ["squash", "crop"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_rows_keep_their_order_labels_and_ids(self, fit, channels):
        wide = np.zeros((3, channels, 8, 16), np.uint8)
        wide[:, :, :, 4:12] = np.array([90, 91, 92], np.uint8)[:, None, None, None]
        of = ImageSet(wide, np.array([1, 0, 1]), np.array([5, 3, 9]), 2)
        train = Resized(of=of, size=4, fit=fit).load().train
        assert train.images.shape == (3, channels, 4, 4)
        border, middle = train.images[:, 0, 2, 0], train.images[:, -1, 2, 2]
        assert np.abs(middle.astype(int) - [90, 91, 92]).max() <= (0 if fit == "crop" else 20)
        assert (border == middle).all() == (fit == "crop")
        assert train.labels.tolist() == [1, 0, 1]
        assert train.ids.tolist() == [5, 3, 9]

    def test_many_pixels_become_their_mean(self):
        grey = np.tile(np.array([[0, 200], [200, 0]], np.uint8), (1, 1, 8, 8))
        small = Resized(of=ImageSet(grey, np.zeros(1, int), np.zeros(1, int), 1), size=2).load()
        assert np.abs(small.train.images.astype(int) - 100).max() <= 12

    def test_what_cannot_be_resized_is_refused(self):
        two = ImageSet(np.zeros((1, 2, 4, 4), np.uint8), np.zeros(1, int), np.zeros(1, int), 1)
        with pytest.raises(DataError, match="got 2 channels"):
            Resized(of=two, size=2).load()
        with pytest.raises(DataError, match="at least 1 pixel; got 0"):
            Resized(of=two, size=0)
