"""How much of a foreign file is read before it is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from harness.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what a foreign file may cost.

    The defaults leave room for the largest published set, 100,000 purified images of 64 x 64
    pixels. Reading takes about nine times the pixels' own memory: 2.2 GB for 50,000 of 32 x 32.

    Attributes:
        file_bytes: Largest file, and largest sum of the files of a folder.
        operations: Pickle opcodes; one may cost about 64 bytes, whatever its own length.
        image_bytes: Pixels after reading; one image may stand in a list a million times.
        seconds: CPU time of the reading process.
        memory_bytes: Its address space. Reading needs numpy and Pillow (0.1 GiB), never torch.
    """

    file_bytes: int = 4 << 30
    operations: int = 10_000_000
    image_bytes: int = 3 << 30
    seconds: int = 300
    memory_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise DataError(f"limit {name} must be at least 1; got {value}.")
