"""Hostile files: each is refused in one line, and nothing that it asks for happens."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.core.errors import DataError
from harness.interop.foreign import read_npy, read_value
from harness.interop.formats import FORMATS, find_format
from harness.interop.isolated import read_isolated
from harness.interop.limits import Limits
from harness.interop.poison_set import META, POISONS, read_poison_set, write_poison_set
from tests._foreign import (
    ADV,
    Calls,
    dump,
    example_set,
    op_bytes,
    op_name,
    op_text,
    torch_bytes,
    torch_zip,
    write_toxic,
)

LIMITS = Limits(file_bytes=1 << 24, operations=100_000, image_bytes=1 << 26)
END = b"."
P2, P4 = b"\x80\x02", b"\x80\x04"


def touch(canary: Path) -> str:
    return f"touch {canary}"


def system(canary: Path) -> bytes:
    return pickle.dumps(Calls(os.system, touch(canary)))


def nested_tensor(inner: bytes) -> bytes:
    """A plain pickle of a tensor whose nested bytes are these."""
    load = op_name("torch.storage", "_load_from_bytes") + op_bytes(inner) + b"\x85R"
    return (
        P2 + op_name("torch._utils", "_rebuild_tensor_v2") + b"(" + load + b"K\x00))\x89}tR" + END
    )


def tensor_pickle(count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The ``data.pkl`` of a tensor with a storage of ``count`` floats."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"

    kind = op_name("torch", "FloatStorage")
    saved = b"(" + op_text("storage") + kind + op_text("0") + op_text("cpu")
    saved += pickle.dumps(count, 2)[2:-1] + b"tQ"
    head = P2 + op_name("torch._utils", "_rebuild_tensor_v2") + b"("
    return head + saved + b"K\x00" + numbers(size) + numbers(stride) + b"\x89}tR" + END


def array_pickle(shape: bytes, raw: bytes, code: str = "u1") -> bytes:
    dtype = op_name("numpy", "dtype") + op_text(code) + b"\x89\x88\x87R"
    head = op_name("numpy._core.multiarray", "_reconstruct") + op_name("numpy", "ndarray")
    state = b"(K\x01" + shape + dtype + b"\x89" + op_bytes(raw) + b"t"
    return P4 + head + b"K\x00\x85" + op_bytes(b"b") + b"\x87R" + state + b"b" + END


def image_pickle(state: bytes) -> bytes:
    return P4 + op_name("PIL.Image", "Image") + b")\x81" + state + b"b" + END


def image_state(size: bytes, raw: bytes, mode: str = "RGB") -> bytes:
    return b"](}" + op_text(mode) + size + b"N" + op_bytes(raw) + b"e"


def laughs() -> bytes:
    """Ten lists of ten times the list before: 10^10 entries if anyone walked them."""
    code = P4 + b"]\x94"
    for level in range(10):
        code += b"0](" + (b"h" + bytes([level])) * 10 + b"e\x94"
    return code + END


def repeated_bytes() -> bytes:
    """One text of 1 MB, turned into bytes a thousand times."""
    encode = op_name("_codecs", "encode") + b"q\x00" + op_text("a" * 2**20) + b"q\x01"
    again = b"h\x00h\x01" + op_text("latin1") + b"\x86R0"
    return P2 + encode + b"00" + again * 1000 + b"N" + END


def colliding_keys() -> bytes:
    keys = b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N" for i in range(99))
    return P2 + b"}(" + keys + b"u" + END


GETATTR = op_name("builtins", "getattr")
CODE: dict[str, Callable[[Path], bytes]] = {
    "os.system": system,
    "os.system, protocol 0": lambda c: pickle.dumps(Calls(os.system, touch(c)), 0),
    "os.system, protocol 2": lambda c: pickle.dumps(Calls(os.system, touch(c)), 2),
    "eval": lambda c: pickle.dumps(Calls(eval, f"open({str(c)!r}, 'w')")),
    "exec": lambda c: pickle.dumps(Calls(exec, f"open({str(c)!r}, 'w')")),
    "subprocess": lambda c: pickle.dumps(Calls(subprocess.call, ["touch", str(c)])),
    "open": lambda c: pickle.dumps(Calls(open, str(c), "w")),
    "__import__": lambda c: pickle.dumps(Calls(builtins.__import__, "antigravity")),
    "getattr chain": lambda c: P4 + GETATTR + op_name("builtins", "eval") + op_text("__call__")
    + b"\x86R" + op_text(f"open({str(c)!r}, 'w')") + b"\x85R" + END,
    "getattr of an allowed class": lambda c: P4 + GETATTR + op_name("collections", "OrderedDict")
    + op_text("__subclasses__") + b"\x86R" + END,
    "dotted name": lambda c: P4 + op_text("numpy") + op_text("os.system") + b"\x93"
    + op_text(touch(c)) + b"\x85R" + END,
    "name by an allowed module": lambda c: P2 + op_name("numpy", "f2py.diagnose.run") + b")R" + END,
    "name by stack": lambda c: P4 + op_text("os") + op_text("system") + b"\x93"
    + op_text(touch(c)) + b"\x85R" + END,
    "name of no text": lambda c: P4 + b"K\x01K\x02\x93" + END,
    "name with a line break": lambda c: P4 + op_text("os\nx") + op_text("x") + b"\x93" + END,
    "INST": lambda c: b"(" + op_text(touch(c)) + b"ios\nsystem\n" + END,
    "OBJ": lambda c: b"(" + op_name("os", "system") + op_text(touch(c)) + b"o" + END,
    "EXT1": lambda c: P2 + b"\x82\x01)R" + END,
    "EXT4": lambda c: P2 + b"\x84\x01\x00\x00\x00" + END,
    "NEWOBJ_EX": lambda c: P4 + op_name("PIL.Image", "Image") + b")}\x92" + END,
    "NEWOBJ of a class that is not data": lambda c: P2 + op_name("subprocess", "Popen")
    + op_text(touch(c)) + b"\x85\x81" + END,
    "persistent id in a plain pickle": lambda c: P2 + op_text("storage") + b"Q" + END,
    "persistent id as text": lambda c: b"P" + b"storage\n" + END,
    "torch.load of what is nested": lambda c: P2 + op_name("torch", "load") + b")R" + END,
    "code in a tensor's bytes": lambda c: nested_tensor(system(c)),
    "code in a tensor's zip": lambda c: nested_tensor(torch_zip(system(c))),
    "code in a tensor's older file": lambda c: nested_tensor(
        torch_bytes(torch.zeros(2), legacy=True).replace(
            b"\x80\x02}q\x00(X\x10", system(c) + b"\x80\x02}q\x00(X\x10", 1
        )
    ),
    "tensors within tensors": lambda c: nested_tensor(nested_tensor(nested_tensor(b""))),
    "code in a torch file": lambda c: torch_bytes({"poison": Calls(os.system, touch(c))}),
    "code in an older torch file": lambda c: torch_bytes(
        {"poison": Calls(os.system, touch(c))}, legacy=True
    ),
    "a module of torch": lambda c: torch_bytes(torch.nn.Linear(1, 1)),
    "TorchScript": lambda c: torch_zip(P2 + b"N.", {"archive/constants.pkl": b"N."}),
    "_codecs.encode with another codec": lambda c: P2 + op_name("_codecs", "encode")
    + op_text("x") + op_text("rot13") + b"\x86R" + END,
    "_reconstruct of another class": lambda c: P2
    + op_name("numpy._core.multiarray", "_reconstruct") + op_name("collections", "OrderedDict")
    + b"K\x00\x85" + op_bytes(b"b") + b"\x87R" + END,
    "calling a number": lambda c: P2 + b"K\x01)R" + END,
    "calling an array": lambda c: array_pickle(b"K\x01\x85", b"x")[:-1] + b")R" + END,
    "array of objects": lambda c: pickle.dumps(
        np.array([Calls(os.system, touch(c))], dtype=object)),
    "record type": lambda c: pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "f4")])),
    "attributes of a class": lambda c: P2 + op_name("PIL.Image", "Image")
    + b"N}" + op_text("build") + b"Ns\x86b" + END,
    "attributes of an image": lambda c: image_pickle(b"N}" + op_text("build") + b"Ns\x86"),
    "attributes of a dictionary": lambda c: P2 + op_name("collections", "OrderedDict")
    + b")R}" + op_text("__class__") + b"Nsb" + END,
    "set state twice": lambda c: image_pickle(image_state(b"K\x01K\x01\x86", b"abc"))[:-1]
    + image_state(b"K\x01K\x01\x86", b"abc") + b"b" + END,
}  # fmt: skip
BOMBS: dict[str, Callable[[Path], bytes]] = {
    "the same bytes a thousand times": lambda c: repeated_bytes(),
    "the same tensor's bytes again and again": lambda c: P2 + op_name(
        "torch.storage", "_load_from_bytes") + b"q\x00" + op_bytes(torch_bytes(
            torch.zeros(1)._typed_storage(), legacy=True)) + b"q\x01" + b"00"
        + b"h\x00h\x01\x85R0" * 3000 + b"N" + END,
    "keys that collide": lambda c: colliding_keys(),
    "a key that is a deep tuple": lambda c: P2 + b"})" + b"\x85" * 50_000 + b"Ns" + END,
    "a million opcodes": lambda c: P2 + b"N0" * 200_000 + b"N" + END,
    "a million marks": lambda c: P2 + b"(" * 90_000 + END,
    "an integer of a megabyte": lambda c: P2 + b"\x8b" + (10**6).to_bytes(4, "little")
    + b"\x7f" * 10**6 + END,
    "an integer of a million digits": lambda c: b"L" + b"9" * 10**6 + b"L\n" + END,
    "a text longer than the file": lambda c: P4 + b"\x8d" + (2**62).to_bytes(8, "little") + END,
    "bytes of a negative length": lambda c: P2 + b"T" + b"\xff\xff\xff\xff" + END,
    "a frame longer than the file": lambda c: P4 + b"\x95" + (2**62).to_bytes(8, "little"),
    "a memo index of four billion": lambda c: P2 + b"j\xff\xff\xff\xff" + END,
    "no value": lambda c: P2 + END,
    "two values": lambda c: P2 + b"NN" + END,
    "an empty stack": lambda c: P2 + b"\x87" + END,
    "items for what is no list": lambda c: P2 + b"}(NNe" + END,
    "text that is none": lambda c: P2 + b"X\x02\x00\x00\x00\xff\xff" + END,
    "protocol 9": lambda c: b"\x80\x09N" + END,
    "an unknown opcode": lambda c: P2 + b"\xfe" + END,
    "an empty file": lambda c: b"",
    "half a pickle": lambda c: pickle.dumps([1, 2, 3])[:-4],
    "two pickles in a row": lambda c: pickle.dumps([1]) + system(c),
    "array larger than its bytes": lambda c: array_pickle(b"J\xff\xff\xff\x7f\x85", b"abc"),
    "array with a negative side": lambda c: array_pickle(b"J\xff\xff\xff\xff\x85", b"abc"),
    "array of many sides": lambda c: array_pickle(b"(" + b"K\x01" * 40 + b"t", b"a"),
    "array of text": lambda c: array_pickle(b"K\x01\x85", b"a", "S1"),
    "image larger than its bytes": lambda c: image_pickle(
        image_state(b"M\xff\x0fM\xff\x0f\x86", b"x")),
    "image of no pixels": lambda c: image_pickle(image_state(b"K\x00K\x00\x86", b"")),
    "image of a strange mode": lambda c: image_pickle(
        image_state(b"K\x01K\x01\x86", b"abcd", "CMYK")),
    "image with text for a size": lambda c: image_pickle(image_state(op_text("32"), b"abc")),
    "state of an image that is short": lambda c: image_pickle(b"]"),
    "zip with a member above": lambda c: torch_zip(P2 + b"N.", {"../../evil": b"x"}),
    "zip with an absolute member": lambda c: torch_zip(P2 + b"N.", {"/tmp/evil": b"x"}),
    "zip with a back-slash member": lambda c: torch_zip(P2 + b"N.", {"a\\..\\evil": b"x"}),
    "zip bomb": lambda c: torch_zip(
        P2 + b"N.", {"archive/data/0": bytes(2**22)}, zipfile.ZIP_DEFLATED),
    "zip without a pickle": lambda c: torch_zip(b"").replace(b"data.pkl", b"data.txt"),
    "zip with two pickles": lambda c: torch_zip(P2 + b"N.", {"other/data.pkl": b"N."}),
    "zip cut in half": lambda c: torch_bytes({"a": torch.zeros(100)})[:400],
    "zip of overlapping members": lambda c: overlapping(),
    "tensor larger than its storage": lambda c: torch_zip(
        tensor_pickle(1, (10**6, 10**6), (0, 0)), {"archive/data/0": bytes(4)}),
    "tensor beyond its storage": lambda c: torch_zip(
        tensor_pickle(2, (2,), (9,)), {"archive/data/0": bytes(8)}),
    "storage larger than its member": lambda c: torch_zip(
        tensor_pickle(10**9, (1,), (1,)), {"archive/data/0": bytes(4)}),
    "storage that is not there": lambda c: torch_zip(tensor_pickle(1, (1,), (1,))),
    "older file cut off": lambda c: torch_bytes({"a": torch.zeros(100)}, legacy=True)[:-8],
    "older file with a tail": lambda c: torch_bytes(torch.zeros(2), legacy=True) + b"tail",
}  # fmt: skip


def overlapping() -> bytes:
    """A zip whose directory says that a member of 64 bytes has a gigabyte."""
    raw = torch_zip(P2 + b"N.", {"archive/data/0": bytes(64)})
    sizes = raw.rindex(b"archive/data/0") - 26  # two fields of the directory, before the name
    return raw[:sizes] + (2**30).to_bytes(4, "little") * 2 + raw[sizes + 8 :]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def refused(path: Path, read: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert message.isprintable()
    assert path.name in message or str(path.parent) in message
    return message


def test_the_payloads_are_live(canary: Path) -> None:
    """Python's own unpickler runs them: what the others show is no empty promise."""
    pickle.loads(system(canary))
    assert canary.exists()
    canary.unlink()
    torch.load(io.BytesIO(CODE["code in a torch file"](canary)), weights_only=False)
    assert canary.exists()
    canary.unlink()
    with pytest.raises((TypeError, AttributeError)):  # after it has run
        pickle.loads(nested_tensor(torch_zip(system(canary))))
    assert canary.exists()


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused_and_does_not_run(tmp_path: Path, canary: Path, name: str) -> None:
    path = tmp_path / "poisons.pickle"
    path.write_bytes(CODE[name](canary))
    assert "is refused: " in refused(path, lambda: read_value(path, LIMITS))
    assert not canary.exists()


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_and_damage_are_refused(tmp_path: Path, canary: Path, name: str) -> None:
    path = tmp_path / "poison_00799.pth"
    path.write_bytes(BOMBS[name](canary))
    assert "is refused: " in refused(path, lambda: read_value(path, LIMITS))
    assert not canary.exists()


def test_code_in_every_format_is_refused(tmp_path: Path, canary: Path) -> None:
    """Each reader goes through the one machine; none has a way of its own to pickles."""
    for form in FORMATS.values():
        folder = tmp_path / form.name
        folder.mkdir()
        names = ("poisons.pickle", "base_indices.pickle", "imgs", "labels", "poison_indices")
        for name in (*names, "0.png", "x_a.npy", "y_a.npy", "a.npy", "poison_00001.pth"):
            (folder / name).write_bytes(system(canary))
        for path in (folder, folder / "poisons.pickle", folder / "x_a.npy"):
            with pytest.raises(DataError):
                form.read(path, None, LIMITS)
    assert not canary.exists()


def test_a_list_that_holds_itself_or_ten_to_the_tenth_entries_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_toxic(folder, np.zeros((1, 3, 8, 8), np.uint8), [0], None)
    (folder / "poisons.pickle").write_bytes(laughs())
    assert len(read_value(folder / "poisons.pickle", LIMITS)) == 10
    refused(folder / "poisons.pickle", lambda: FORMATS["toxic"].read(folder, None, LIMITS))
    endless: list[Any] = []
    endless.append(endless)
    dump(folder / "poisons.pickle", endless)
    refused(folder / "poisons.pickle", lambda: FORMATS["toxic"].read(folder, None, LIMITS))


def images(count: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 3, side, side), dtype=np.uint8)


def picture(side: int = 8) -> Image.Image:
    return Image.fromarray(np.zeros((side, side, 3), np.uint8))


TARGET = (picture(), 4)
# What stands in a well-formed set's files, and the complaint.
WRONG_SETS: dict[str, tuple[dict[str, Any], str]] = {
    "negative index": ({"base_indices": [-1, 0, 1]}, "reach down to -1"),
    "huge index": ({"base_indices": [0, 1, 2**62]}, "reach up to"),
    "index beyond int64": ({"base_indices": [0, 1, 2**70]}, "no integer"),
    "index twice": ({"base_indices": [5, 5, 1]}, "stand twice"),
    "too few indices": ({"base_indices": [5, 1]}, "are 2; there are 3"),
    "indices as floats": ({"base_indices": np.array([0.0, 1.0, 2.0])}, "not integers"),
    "indices as text": ({"base_indices": ["0", "1", "2"]}, "no integer"),
    "indices as truth values": ({"base_indices": [True, False, 2]}, "no integer"),
    "indices in two axes": ({"base_indices": np.zeros((3, 1), int)}, "not integers"),
    "no list of poisons": ({"poisons": 3}, "no list"),
    "no poisons": ({"poisons": []}, "has 0 entries"),
    "triples": ({"poisons": [(picture(), ADV, 0)] * 3}, "no pairs"),
    "label as text": ({"poisons": [(picture(), "1")] * 3}, "no integer"),
    "negative label": ({"poisons": [(picture(), -1)] * 3}, "labels are 0..C-1"),
    "several labels": ({"poisons": [(picture(), i) for i in range(3)]}, "several labels"),
    "sizes that differ": ({"poisons": [(picture(s), ADV) for s in (8, 8, 9)]}, "differ"),
    "images that are numbers": ({"poisons": [(7, ADV)] * 3}, "no array"),
    "images that are floats": ({"poisons": [(np.zeros((8, 8, 3)), ADV)] * 3}, "differ"),
    "images in two axes": ({"poisons": [(np.zeros((8, 8), np.uint8), ADV)] * 3}, "of shape"),
    "one image many times": ({"poisons": [(np.zeros((512, 512, 3), np.uint8), ADV)] * 99},
                             "more than the limit"),
    "target without a label": ({"target": (picture(),)}, "has 1 entries"),
    "target of three parts": ({"target": (picture(), 4, 5)}, "has 3 parts"),
    "patch that is not finite": ({"target": (*TARGET, np.full((3, 2, 2), np.nan), [0, 0])},
                                 "not finite"),
    "patch that is infinite": ({"target": (*TARGET, torch.full((3, 2, 2), torch.inf), [0, 0])},
                               "not finite"),
    "patch in grey levels": ({"target": (*TARGET, np.full((3, 2, 2), 255.0), [0, 0])},
                             "floats in"),
    "patch of three coordinates": ({"target": (*TARGET, np.zeros((3, 2, 2)), [0, 0, 0])},
                                   "at 3 coordinates"),
    "norms that are not finite": ({"perturbation_norms": [0.1, float("nan"), 0.1]}, "not finite"),
    "norms of another number": ({"perturbation_norms": [0.1]}, "no 3 numbers"),
    "no target": ({"target": None}, "neither target.pickle nor source.pickle"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_SETS)
def test_a_set_that_makes_no_sense_is_refused(tmp_path: Path, name: str) -> None:
    changes, complaint = WRONG_SETS[name]
    folder = tmp_path / "set"
    files = {"base_indices": [0, 1, 2], "target": TARGET, **changes}
    write_toxic(folder, images(), **{"rows": files.pop("base_indices"), **files})
    assert complaint in refused(folder, lambda: FORMATS["toxic"].read(folder, None, LIMITS))


def npy(array: np.ndarray, **changes: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    raw = stream.getvalue()
    for old, new in changes.items():
        raw = raw.replace(old.encode(), new)
    return raw


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (npy(np.array([Calls(os.getcwd)], dtype=object)), "not numbers"),
        (npy(np.zeros((1, 3, 8, 8), np.float32)).replace(b"(1, 3, 8, 8)", b"(9, 9, 9, 9)"),
         "another number of bytes"),
        (npy(np.zeros(8)).replace(b"(8,)", b"(-8,)"[:4]), "refused"),
        (npy(np.zeros(8))[:40], "refused"),
        (npy(np.zeros(8)) + b"tail", "another number of bytes"),
        (npy(np.zeros(4, [("a", "f4")])), "not numbers"),
        (npy(np.array(["text"])), "not numbers"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 9000, "refused"),
        (b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').getcwd()".ljust(32), "refused"),
        (b"", "refused"),
    ],
)  # fmt: skip
def test_a_hostile_npy_is_refused(tmp_path: Path, raw: bytes, complaint: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(raw)
    assert complaint in refused(path, lambda: read_npy(path, LIMITS))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.full((1, 3, 8, 8), np.nan, np.float32), "not finite"),
        (np.full((1, 3, 8, 8), np.inf, np.float32), "not finite"),
        (np.zeros((1, 3, 8, 8), np.float32), "zero"),
        (np.full((1, 3, 8, 8), 8.0, np.float32), "other units"),
        (np.ones((1, 3, 8, 8), np.int64), "floats"),
        (np.full((2, 3, 8, 8), 0.1, np.float32), "floats (1, C, H, W)"),
        (np.full((1, 7, 8, 8), 0.1, np.float32), "1 or 3"),
    ],
)
def test_a_trigger_that_makes_no_sense_is_refused(
    tmp_path: Path, values: np.ndarray, complaint: str
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, values)
    read = FORMATS["narcissus"].read
    assert complaint in refused(path, lambda: read(path, None, LIMITS))


def test_backdoorbench_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "attack_result.pt"
    path.write_bytes(b"")
    for given in (path, tmp_path):
        with pytest.raises(DataError, match="to read them is to run its code"):
            find_format(given)


# In a process of its own


def test_the_reading_process_refuses_in_the_same_words(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "poison_00799.pth"
    path.write_bytes(CODE["code in a torch file"](canary))
    message = refused(path, lambda: read_isolated(path, "bullseye", limits=LIMITS))
    assert "'posix.system', which is not data" in message
    assert not canary.exists()


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        (Limits(memory_bytes=400 << 20), "needs more memory|ended with status"),
        (Limits(seconds=1), "more than 1 s of CPU time"),
    ],
)
def test_a_reader_that_runs_into_a_limit_is_one_error(
    tmp_path: Path, limits: Limits, complaint: str
) -> None:
    path = tmp_path / "x_a.npy"
    # A file without bytes on the disk: zeros, which are read as an image set of a gigabyte.
    header = npy(np.zeros((1, 32, 32, 3)))[:128]
    count = 60_000
    header = header.replace(b"(1, 32, 32, 3), }    ", f"({count}, 32, 32, 3), }}".encode())
    with path.open("wb") as file:
        file.write(header)
        file.truncate(128 + count * 32 * 32 * 3 * 8)
    np.save(tmp_path / "y_a.npy", np.eye(10)[np.zeros(count, int)])
    with pytest.raises(DataError, match=complaint):
        read_isolated(path, "ntga", limits=limits)


def test_the_reading_process_gets_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.interop.isolated import _environment

    monkeypatch.setenv("SOME_TOKEN", "secret")
    assert "secret" not in str(_environment())


# The project's own form


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda f: (f / META).write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / META).write_text("[" * 100_000), "cannot be read as JSON"),
        (lambda f: (f / META).write_text("[]"), "not of the format"),
        (lambda f: (f / META).write_text('{"format": "puregen-bench poisons 1"}'), "no checksums"),
        (lambda f: (f / META).unlink(), "holds no set"),
        (lambda f: (f / POISONS).unlink(), "does not exist"),
        (lambda f: (f / POISONS).write_bytes(b"PK"), "is not the file"),
        (lambda f: relabel(f, goal="fun"), "goal must be one of"),
        (lambda f: relabel(f, gaol="targeted"), "Did you mean 'goal'"),
        (lambda f: relabel(f, eps_255="8"), "wrong type"),
        (lambda f: relabel(f, adv_label=True), "wrong type"),
        (lambda f: relabel(f, sha256={"../../etc/passwd": "0", POISONS: "0"}), "no checksums"),
        (lambda f: swap(f, images=np.zeros((6, 3, 32, 32))), "must be uint8"),
        (lambda f: swap(f, labels=np.zeros(5, np.int64)), "labels of poisons must be int64"),
        (lambda f: swap(f, labels=np.array([Calls(os.getcwd)] * 6, object)), "cannot be read"),
    ],
)
def test_a_tampered_set_is_refused(
    tmp_path: Path, harm: Callable[[Path], Any], complaint: str
) -> None:
    folder = tmp_path / "set"
    write_poison_set(folder, example_set())
    harm(folder)
    assert complaint in refused(folder / META, lambda: read_poison_set(folder))


def relabel(folder: Path, **changes: Any) -> None:
    import json

    raw = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps({**raw, **changes}))


def swap(folder: Path, **arrays: np.ndarray) -> None:
    """Put other arrays into a set, with the right checksum."""
    from harness.core.files import file_digest

    with np.load(folder / POISONS) as archive:
        before = dict(archive)
    np.savez(folder / POISONS, **{**before, **arrays})
    relabel(folder, sha256={POISONS: file_digest(folder / POISONS)})
