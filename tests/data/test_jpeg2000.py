"""JPEG 2000 files of some hundred bytes whose headers ask for gigabytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from PIL import Image

from pipeline.data import jpeg2000
from pipeline.data.cost import look
from pipeline.data.decode import DecodeError, decode
from tests.data import stored

MOST = 100_000_000
SIDE = 4000


def flat(side: int = SIDE, *, boxes: bool = False, **settings: object) -> bytearray:
    return bytearray(stored.encoded(Image.new("RGB", (side, side)), "JPEG2000", no_jp2=not boxes, **settings))


def coding(data: bytearray, precinct: int | None = None) -> bytes:
    """The COD segment of a file, with the exponents of all its precincts changed."""
    at = data.index(b"\xff\x52")
    body = bytes(data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
    if precinct is not None:
        body = bytes([body[0] | 1]) + body[1:10] + bytes([precinct * 17]) * (body[5] + 1)
    return b"\xff\x52" + struct.pack(">H", 2 + len(body)) + body


def small_precincts(data: bytearray) -> bytes:
    return bytes(data).replace(coding(data), coding(data, 1), 1)


def small_precincts_of_a_component(data: bytearray) -> bytes:
    cod = coding(data, 1)
    coc = b"\0" + cod[4:5] + cod[9:]
    return bytes(data).replace(coding(data), coding(data) + b"\xff\x53" + struct.pack(">H", 2 + len(coc)) + coc, 1)


def small_precincts_of_a_tile(data: bytearray) -> bytes:
    added, at = coding(data, 1), data.index(b"\xff\x90")
    struct.pack_into(">I", data, at + 6, struct.unpack_from(">I", data, at + 6)[0] + len(added))
    return bytes(data[: at + 12] + added + data[at + 12 :])


def small_blocks(data: bytearray) -> bytes:
    at = data.index(b"\xff\x52")
    data[at + 10 : at + 12] = b"\0\0"
    return bytes(data)


def small_tiles(data: bytearray) -> bytes:
    struct.pack_into(">II", data, data.index(b"\xff\x51") + 22, 8, 8)
    return bytes(data)


def many_layers(data: bytearray) -> bytes:
    at = data.index(b"\xff\x52")
    data[at + 6 : at + 8] = b"\xff\xff"
    return bytes(data).replace(coding(data), coding(data, 7), 1)


BOMBS = [
    small_precincts, small_precincts_of_a_component, small_precincts_of_a_tile, small_blocks, small_tiles, many_layers,
]  # fmt: skip


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("bomb", BOMBS)
def test_headers_that_ask_for_gigabytes(bomb: Callable[[bytearray], bytes], boxes: bool) -> None:
    data = bomb(flat(boxes=boxes))
    assert len(data) < 500
    with pytest.raises(DecodeError, match=r"a JPEG 2000 of .* bytes that asks for .* code-blocks, more than 1,000,000"):
        decode(data, max_pixels=MOST)
    assert look(data, max_pixels=MOST).bytes == 0


def test_the_size_of_the_codestream_counts_not_that_of_the_box_around_it() -> None:
    data = flat(8, boxes=True)
    at = data.index(b"\xff\x51")
    struct.pack_into(">II", data, at + 6, 60_000, 60_000)
    with pytest.raises(DecodeError, match="60000 x 60000 pixels are more than max_pixels"):
        decode(bytes(data), max_pixels=MOST)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tile_size": (256, 256)},
        {"codeblock_size": (16, 16)},
        {"precinct_size": (128, 128), "codeblock_size": (32, 32)},
        {"quality_layers": [80, 40, 20, 10]},
    ],
)
def test_what_encoders_make_is_read(settings: dict[str, object]) -> None:
    data = bytes(flat(1000, boxes=True, **settings))
    assert decode(data, max_pixels=MOST).shape == (1000, 1000, 3)


def test_blocks_are_counted() -> None:
    # One tile, one resolution, blocks of 64: 4 x 4 of them and a precinct around, in each of 3 components.
    found = jpeg2000.read(io.BytesIO(flat(256, num_resolutions=1)))
    assert found == jpeg2000.Jpeg2000(256, 256, 3, 3 * (16 + 1 + 2))
