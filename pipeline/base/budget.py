"""What a file of a stranger's may take to be read, by its own length: bytes in memory, and steps of work.

A small file can ask for much: one array named five thousand times, zeros that pack to a thousandth, nodes that each
look at all others. A reader says what it is about to make or do, before it does, and one that goes beyond what a sound
file of this length could need is refused, always in the same words. Files that hold what they say, packed or not, stay
far below: arrays become themselves, and a copy or two.
"""

from __future__ import annotations

from pipeline.base.errors import UserError

# What a file of any length may take. A process that has loaded its libraries takes more.
FREE_BYTES = 64 << 20
# What a byte of a file may become where all of it is held in memory: weights hardly pack, text becomes objects.
MADE_OF_A_BYTE = 16
# And where it is unpacked in parts (HDF5): drawings and masks pack to a hundredth, zeros to a thousandth.
UNPACKED_OF_A_BYTE = 100
# Steps are lines of Python or so; a million take a second.
FREE_STEPS = 1_000_000
STEPS_OF_A_BYTE = 1 / 100
# A picture of one colour packs to a thousand pixels a byte, a photograph to less than ten.
FREE_PIXELS = 50_000_000
PIXELS_OF_A_BYTE = 50
# Of a JPEG 2000: what the decoder sets up before it reads data. A block of 32 x 32 pixels, as encoders make them, takes
# some bytes in a file; FREE_PIXELS have as many of the smallest, of 4 x 4.
FREE_BLOCKS = 3_200_000
BLOCKS_OF_A_BYTE = 1 / 4
BLOCK_BYTES = 600
# And the bit-planes of samples that it goes over, some 15 ns each at most: photographs have two to eight a sample.
FREE_PLANES = 400_000_000
PLANES_OF_A_BYTE = 20
# The same of what a guest sends, who may send many: a second's work, and more for more bytes.
GUEST_FREE_PLANES = 50_000_000
GUEST_PLANES_OF_A_BYTE = 50
# What the HDF5 library may take to look a file through, in a process of its own; it reads half a million
# texts a second.
FREE_TRIED_S = 2.0
TRIED_BYTES_A_S = 8 << 20
MOST_TRIED_BYTES = 1 << 30
# Of a Python object beside its content, with its place in what holds it.
OBJECT_BYTES = 64


def most_pixels(file_bytes: int) -> int:
    """What a picture of a file of this length may have; each takes 10 to 30 bytes and about 50 ns to decode. What takes
    longer, as pixels of 64 bits do, counts as more than one.
    """
    return FREE_PIXELS + PIXELS_OF_A_BYTE * file_bytes


def most_blocks(file_bytes: int) -> int:
    """Tiles, precincts and code-blocks that a JPEG 2000 of this length may have."""
    return FREE_BLOCKS + int(BLOCKS_OF_A_BYTE * file_bytes)


def most_planes(file_bytes: int) -> int:
    """Bit-planes of samples that a JPEG 2000 of this length may have, but for those that are all zeros in a block."""
    return FREE_PLANES + PLANES_OF_A_BYTE * file_bytes


def most_guest_planes(file_bytes: int) -> int:
    """`most_planes` of a guest's file: a photograph of 24 million pixels in 3.6 MB, or of 12 million without loss."""
    return min(GUEST_FREE_PLANES + GUEST_PLANES_OF_A_BYTE * file_bytes, FREE_PLANES)


def tried_s(file_bytes: int) -> float:
    """Seconds of a processor for `tried_hdf5`."""
    return FREE_TRIED_S + file_bytes / TRIED_BYTES_A_S


def tried_bytes(file_bytes: int) -> int:
    """Bytes in memory for `tried_hdf5`, beside those of the libraries. Texts are read some at a time: the most that it
    takes doesn't grow with the file."""
    return min(FREE_BYTES + MADE_OF_A_BYTE * file_bytes, MOST_TRIED_BYTES)


class TooMuchError(UserError):
    """A file that asks for more than its length allows."""


class Budget:
    """What is left for the reading of one file. `where`: how to call it; `file_bytes`: its length."""

    def __init__(self, where: object, file_bytes: int) -> None:
        self._where, self._file_bytes = where, file_bytes
        self._most_bytes = FREE_BYTES + MADE_OF_A_BYTE * file_bytes
        self._most_steps = FREE_STEPS + int(STEPS_OF_A_BYTE * file_bytes)
        self._left_bytes, self._left_steps = self._most_bytes, self._most_steps

    def make(self, count_bytes: int) -> None:
        """Called before `count_bytes` are made; they count even if they are freed later. Raises TooMuchError."""
        self._left_bytes -= count_bytes
        if self._left_bytes < 0:
            raise TooMuchError(
                f"{self._where} has {self._file_bytes:,} bytes and asks for more than {self._most_bytes:,} in memory",
                allowed=f"{FREE_BYTES:,} bytes and {MADE_OF_A_BYTE} times a file's own length",
            )

    def work(self, steps: int = 1) -> None:
        """Called before `steps` of work are done. Raises TooMuchError."""
        self._left_steps -= steps
        if self._left_steps < 0:
            raise TooMuchError(
                f"{self._where} has {self._file_bytes:,} bytes and asks for more than {self._most_steps:,} steps",
                allowed=f"{FREE_STEPS:,} steps and one for each {round(1 / STEPS_OF_A_BYTE)} bytes of a file",
            )
