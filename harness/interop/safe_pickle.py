"""A reader of pickles that cannot run anything: it knows data, and refuses everything else.

Python's own unpickler calls whatever a file names. This one is a machine of its own, with a third
of the opcodes: containers, numbers, text, bytes, and the few names below, each of which stands for
an inert value (:mod:`harness.interop.inert`). It imports and calls nothing by name, sets no
attribute, and its work and memory grow no faster than the file.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.core.errors import DataError
from harness.interop.inert import (
    ForeignArray,
    ForeignDtype,
    ForeignImage,
    ForeignTensor,
    Refused,
    kind_of,
)

LONGEST_INT = 2**80  # the magic number of torch's older files has 79 bits
Maker = Callable[[tuple[Any, ...], "Budget"], Any]
Globals = Mapping[tuple[str, str], "Name"]


@dataclass(frozen=True, slots=True)
class Name:
    """A name that a file may use: what calling it gives, or None for a mere word."""

    text: str
    make: Maker | None = None


@dataclass(slots=True)
class Budget:
    """What is left of the work that a file may cause, nested files included."""

    operations: int
    copied_bytes: int

    def operate(self) -> None:
        """Take one opcode."""
        self.operations -= 1
        if self.operations < 0:
            raise Refused("it has more opcodes than a set of images needs")

    def copy(self, count: int) -> None:
        """Take a copy of so many bytes; a file that repeats one by reference soon has none left."""
        self.copied_bytes -= count
        if self.copied_bytes < 0:
            raise Refused("it copies the same bytes again and again")


def budget_for(data: bytes, operations: int) -> Budget:
    """Return the budget of a file: protocol 2 copies a nested tensor's bytes twice."""
    return Budget(operations, 4 * len(data) + (1 << 16))


# The names


def _encode(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise Refused("_codecs.encode is for bytes as Latin-1 only")
    budget.copy(len(arguments[0]))
    return arguments[0].encode("latin-1")


def _image(arguments: tuple[Any, ...], budget: Budget) -> ForeignImage:
    if arguments:
        raise Refused("an image takes no arguments")
    return ForeignImage()


def _dictionary(arguments: tuple[Any, ...], budget: Budget) -> dict[str, Any]:
    if arguments:
        raise Refused("an OrderedDict takes no arguments")
    return {}


def _dtype(arguments: tuple[Any, ...], budget: Budget) -> ForeignDtype:
    if len(arguments) != 3:
        raise Refused("numpy.dtype takes 3 arguments")
    return ForeignDtype(arguments[0])


def _array(arguments: tuple[Any, ...], budget: Budget) -> ForeignArray:
    if len(arguments) != 3 or arguments[0] != _NDARRAY:
        raise Refused("_reconstruct is for arrays only")
    return ForeignArray()


def _from_buffer(arguments: tuple[Any, ...], budget: Budget) -> ForeignArray:
    if len(arguments) != 4:
        raise Refused("_frombuffer takes 4 arguments")
    array = ForeignArray()
    array.fill(*arguments)
    return array


def _scalar(arguments: tuple[Any, ...], budget: Budget) -> int | float | bool:
    if len(arguments) != 2:
        raise Refused("numpy's scalar takes 2 arguments")
    array = ForeignArray()
    array.fill(arguments[1], arguments[0], (), "C")
    value: int | float | bool = array.array().item()
    return value


def _tensor(arguments: tuple[Any, ...], budget: Budget) -> ForeignTensor:
    return ForeignTensor.of(arguments)


_NDARRAY = Name("numpy.ndarray")
_ARRAYS: dict[str, Maker] = {
    "multiarray._reconstruct": _array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
_NAMES = [
    Name("PIL.Image.Image", _image),
    Name("collections.OrderedDict", _dictionary),
    Name("_codecs.encode", _encode),
    Name("numpy.dtype", _dtype),
    Name("torch._utils._rebuild_tensor_v2", _tensor),
    _NDARRAY,
    # numpy 2 renamed the module.
    *(Name(f"numpy.{core}.{n}", make) for core in ("core", "_core") for n, make in _ARRAYS.items()),
]


def names(*allowed: Name) -> dict[tuple[str, str], Name]:
    """Return a table by module and name, as a file gives them."""
    table = {}
    for name in allowed:
        module, _, last = name.text.rpartition(".")
        table[module, last] = name
    return table


PLAIN: dict[tuple[str, str], Name] = names(*_NAMES)


# The machine


class _Machine:
    """One pickle's stack and memo (see :func:`run`)."""

    def __init__(
        self, allowed: Globals, budget: Budget, persistent: Callable[[Any], Any] | None
    ) -> None:
        self.allowed, self.budget, self.persistent = allowed, budget, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Refused("its stack is empty where a value is taken")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Refused(f"it adds items to something else than a {kind.__name__}")
        return self.stack[-1]

    def take(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    def since_mark(self) -> list[Any]:
        if not self.marked:
            raise Refused("it has no mark where one is needed")
        items, self.stack = self.stack, self.marked.pop()
        return items

    # What single opcodes do; the argument is None where there is none.

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def proto(self, version: Any) -> None:
        if version not in (2, 3, 4, 5):
            raise Refused(f"it has protocol {version}; 2 to 5 are known")

    def integer(self, value: Any) -> None:
        if not -LONGEST_INT < value < LONGEST_INT:
            raise Refused("it holds an integer of more than 80 bits")
        self.push(value)

    def data(self, value: Any) -> None:
        self.push(bytes(value))

    def put(self, index: Any) -> None:
        self.memo[index] = self.stack[-1] if self.stack else self.pop()

    def memoize(self, _: Any) -> None:
        self.put(len(self.memo))

    def get(self, index: Any) -> None:
        if index not in self.memo:
            raise Refused(f"it takes memo {index}, which it has not put")
        self.push(self.memo[index])

    def append(self, _: Any) -> None:
        item = self.pop()
        self.top(list).append(item)

    def appends(self, _: Any) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def _set(self, flat: list[Any]) -> None:
        target = self.top(dict)
        if len(flat) % 2:
            raise Refused("a dictionary has a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Other keys can be made to collide, or to be compared without end.
            if type(key) is not str:
                raise Refused(f"a dictionary has a key of type {kind_of(key)}; str is known")
            target[key] = value

    def setitem(self, _: Any) -> None:
        self._set(list(self.take(2)))

    def setitems(self, _: Any) -> None:
        self._set(self.since_mark())

    def global_(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")  # the parser joins the two lines by a space
        self._name(module, name)

    def stack_global(self, _: Any) -> None:
        self._name(*self.take(2))

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused("it names something by what is no text")
        found = self.allowed.get((module, name))
        if found is None:
            raise Refused(f"it names {f'{module}.{name}'[:80]!a}, which is not data")
        self.push(found)

    def call(self, _: Any) -> None:
        target, arguments = self.take(2)
        if type(target) is not Name or target.make is None or type(arguments) is not tuple:
            raise Refused(f"it calls something else than a known name: {kind_of(target)}")
        self.push(target.make(arguments, self.budget))

    def build(self, _: Any) -> None:
        target, state = self.take(2)
        if type(target) not in (ForeignImage, ForeignArray, ForeignDtype):
            raise Refused(f"it sets the state of a value of type {kind_of(target)}")
        target.build(state)
        self.push(target)

    def persistent_id(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("it refers to something outside the file")
        self.push(self.persistent(self.pop()))


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(machine.take(count))


def _push(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _ignore(machine: _Machine, argument: Any) -> None:
    """Frames tell an unpickler how much to read ahead; here the whole file is in memory."""


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.proto,
    "FRAME": _ignore,
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.pop() and None,
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "BININT": _Machine.integer,
    "BININT1": _Machine.integer,
    "BININT2": _Machine.integer,
    "LONG1": _Machine.integer,
    "LONG4": _Machine.integer,
    "BINFLOAT": _push,
    "BINUNICODE": _push,
    "SHORT_BINUNICODE": _push,
    "BINUNICODE8": _push,
    "BINBYTES": _Machine.data,
    "SHORT_BINBYTES": _Machine.data,
    "BINBYTES8": _Machine.data,
    "BYTEARRAY8": _Machine.data,
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}


def run(
    data: bytes,
    start: int,
    allowed: Globals,
    budget: Budget,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Read the pickle that begins at ``start``.

    Args:
        data: The whole file.
        start: Where the pickle begins.
        allowed: Names that it may use.
        budget: What it may cost; it is spent.
        persistent: Gives what a persistent id of torch stands for; None refuses them.

    Returns:
        The value, and the position after the pickle. Values are None, bool, int, float, str,
        bytes, tuple, list, dict with keys of text, and those of :mod:`harness.interop.inert`.
        Containers may hold each other, or themselves: walk them to a fixed depth only.

    Raises:
        Refused: If it is no such pickle.
    """
    machine = _Machine(allowed, budget, persistent)
    stream = io.BytesIO(data)
    stream.seek(start)
    for opcode, argument, _ in _opcodes(stream):
        budget.operate()
        if opcode == "STOP":
            break
        action = _ACTIONS.get(opcode)
        if action is None:
            raise Refused(f"it has the opcode {opcode}, which data do not need")
        action(machine, argument)
    if machine.marked or len(machine.stack) != 1:
        raise Refused("it leaves another number of values than one")
    return machine.stack[0], stream.tell()


def _opcodes(stream: io.BytesIO) -> Iterator[tuple[str, Any, int | None]]:
    try:
        for opcode, argument, position in pickletools.genops(stream):
            yield opcode.name, argument, position
    except (ValueError, OverflowError) as error:
        if isinstance(error, UnicodeError):
            raise Refused("it is damaged: a text in it is none") from None
        raise Refused(f"it is damaged: {str(error)[:100]!a}") from None


@contextmanager
def one_message(where: str) -> Iterator[None]:
    """Name the file in what is refused, and take damage that numpy or memory finds for the same."""
    try:
        yield
    except Refused as error:
        raise DataError(f"{where!r} is refused: {error}.") from None
    except MemoryError:
        raise DataError(f"{where!r} is refused: it needs more memory than there is.") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{where!r} is refused: {str(error)[:200]!a}.") from None
