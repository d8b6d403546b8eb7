"""Small JPEG 2000 files that ask for gigabytes, or for minutes, and ordinary ones that are read."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.base.budget import BLOCK_BYTES, FREE_PLANES
from pipeline.data import jpeg2000
from pipeline.data.cost import look
from pipeline.data.decode import DecodeError, decode
from tests import jpeg2000_files, peak
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
    small_precincts, small_precincts_of_a_component, small_precincts_of_a_tile, small_tiles, many_layers,
]  # fmt: skip


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("bomb", BOMBS)
def test_headers_that_ask_for_gigabytes(bomb: Callable[[bytearray], bytes], boxes: bool) -> None:
    data = bomb(flat(boxes=boxes))
    assert len(data) < 500
    with pytest.raises(DecodeError, match=r"a JPEG 2000 of .* bytes that asks for .* code-blocks, more than 3,200,000"):
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
        {"codeblock_size": (4, 4)},
        {"codeblock_size": (4, 4), "quality_mode": "rates", "quality_layers": [50]},
    ],
)
def test_what_encoders_make_is_read(settings: dict[str, object]) -> None:
    data = bytes(flat(1000, boxes=True, **settings))
    assert decode(data, max_pixels=MOST).shape == (1000, 1000, 3)


def test_blocks_are_counted() -> None:
    # One tile, one resolution, blocks of 64: 4 x 4 of them and a precinct around, in each of 3 components.
    found = jpeg2000.read(io.BytesIO(flat(256, num_resolutions=1)))
    blocks = 3 * (16 + 1 + 2)
    # 8 bits and 2 guard bits less 1 are 9 planes; the transform is one, and a block as 70 samples' more.
    assert found == jpeg2000.Jpeg2000(256, 256, 3, blocks, 3 * 256**2 * (9 + 1) + 70 * blocks)


PHOTOGRAPH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((400, 400))
).astype(np.int64) + np.random.default_rng(1).normal(0, 4, (400, 400, 1)).astype(np.int64)


def photograph(**settings: object) -> bytes:
    """Smooth, with noise."""
    image = Image.fromarray(np.clip(PHOTOGRAPH, 0, 255).astype(np.uint8))
    return stored.encoded(image, "JPEG2000", quality_mode="rates", **settings)


def counted(data: bytes) -> int | None:
    return jpeg2000.count_planes(io.BytesIO(data), 1 << 60)


@pytest.mark.parametrize("style", [0, 8])
@pytest.mark.parametrize("padding", [0, 4_600_000])
def test_blocks_of_eight_bytes_that_ask_for_thirty_planes(style: int, padding: int) -> None:
    """One of 141 kB took 23 s."""
    data = jpeg2000_files.blocks_of_passes(7000, 7000, data=bytes(8), style=style, padding=padding)
    start = time.process_time()
    with pytest.raises(DecodeError, match=r"whose code-blocks ask for more than 4[0-9]* million bit-planes of samples"):
        decode(data, max_pixels=MOST)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(("planes", "passes"), [(30, 0), (30, 1), (30, 4), (7, 0), (30, 109)])
def test_passes_are_counted(planes: int, passes: int) -> None:
    data = jpeg2000_files.blocks_of_passes(256, 128, planes=planes, passes=passes)
    # In the first plane there is one pass, in each other one there are three.
    asked = min((passes or 3 * planes - 2) + 2, 90) // 3
    found = counted(data)
    assert found is not None
    assert 0 <= found - 256 * 128 * (1 + asked) < 20_000  # what counting eight blocks takes


@pytest.mark.parametrize("settings", [{}, {"quality_layers": [40, 20, 10]}, {"irreversible": True}])
def test_packets_are_read_in_every_order(settings: dict[str, object]) -> None:
    """A bit that is taken for another shows in what follows: all orders give the same only if all is read right."""
    cut = {"tile_size": (170, 130), "precinct_size": (64, 64), "codeblock_size": (16, 16), **settings}
    found = {order: counted(photograph(progression=order, **cut)) for order in ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL")}
    assert len(set(found.values())) == 1
    assert None not in found.values()


@pytest.mark.parametrize("settings", [{}, {"irreversible": True}, {"tile_size": (200, 200)}])
def test_the_better_a_picture_the_more_planes_it_has(settings: dict[str, object]) -> None:
    samples = PHOTOGRAPH.size
    found = [(counted(photograph(quality_layers=[rate], **settings)) or 0) / samples for rate in (100, 20, 5, 1)]
    assert found == sorted(found)
    assert found[0] < 4
    assert 6 < found[-1] < 15


@pytest.mark.parametrize(
    "settings",
    [
        {"quality_layers": [100]},
        {"quality_layers": [20]},
        {"quality_layers": [20], "irreversible": True},
        {"quality_layers": [80, 60, 50, 40, 30, 25, 20, 15, 12, 10, 8]},
        {"quality_layers": [1]},
        {"quality_layers": [20], "progression": "RPCL", "tile_size": (256, 256)},
    ],
)
def test_a_large_photograph_is_read(monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]) -> None:
    """As one of 24 million pixels against FREE_PLANES, where its headers alone allow for too much."""
    monkeypatch.setattr("pipeline.base.budget.FREE_PLANES", FREE_PLANES * PHOTOGRAPH.size // 3 // 24_000_000)
    assert decode(photograph(**settings), max_pixels=MOST).shape == (400, 400, 3)
    crafted = jpeg2000_files.blocks_of_passes(600, 600, data=bytes(8))
    with pytest.raises(DecodeError, match="bit-planes"):
        decode(crafted, max_pixels=MOST)


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_packets_that_are_cut_off_or_of_noise_end_in_a_count(length: int) -> None:
    data = jpeg2000_files.blocks_of_passes(512, 512)
    at = data.index(b"\xff\x93") + 2
    noise = np.random.default_rng(length).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    for packets in (data[at : at + length], noise):
        assert counted(data[:at] + packets) is not None


@pytest.mark.parametrize("where", [b"\xff\x5f", b"\xff\x60"])
def test_packets_that_lie_elsewhere_are_bound_by_the_headers(monkeypatch: pytest.MonkeyPatch, where: bytes) -> None:
    """In an order of their own (POC), or in the main header (PPM)."""
    plain = photograph(no_jp2=True, quality_layers=[100])
    at = plain.index(b"\xff\x52")
    data = plain[:at] + where + struct.pack(">H", 9) + bytes(7) + plain[at:]
    assert counted(data) is None
    monkeypatch.setattr("pipeline.base.budget.FREE_PLANES", 5 * PHOTOGRAPH.size)
    assert decode(plain, max_pixels=MOST).shape == (400, 400, 3)
    with pytest.raises(DecodeError, match="bit-planes"):
        decode(data, max_pixels=MOST)


def hidden(*, where: str) -> bytes:
    """Two planes by the header that comes first, thirty by one that only the decoder gets to."""
    data = jpeg2000_files.blocks_of_passes(256, 256, data=bytes(8))
    many, few = (jpeg2000_files.segment(0xFF5C, bytes([0, planes + 1 << 3])) for planes in (30, 1))
    assert many in data
    if where == "in a marker that is not known":
        return data.replace(many, few + jpeg2000_files.segment(0xFF30, many))
    data = data.replace(many, few + jpeg2000_files.segment(0xFF64, b"\0\1") * 100_000 + many)
    assert where == "behind many comments"
    return data


@pytest.mark.parametrize("where", ["in a marker that is not known", "behind many comments"])
def test_headers_that_hide_more_planes_are_refused(where: str) -> None:
    """Either was told as a fifteenth of what the decoder did."""
    with pytest.raises(
        DecodeError, match=r"whose headers have (a marker that is not known \(0xff30\)|more than 100,000)"
    ):
        decode(hidden(where=where), max_pixels=MOST)
    assert look(hidden(where=where), max_pixels=MOST).bytes == 0


def test_a_marker_of_other_parts_of_the_standard_is_read_over() -> None:
    data = photograph(no_jp2=True)
    at = data.index(b"\xff\x52")
    marked = data[:at] + jpeg2000_files.segment(0xFF56, b"\0\4") + data[at:]
    np.testing.assert_array_equal(decode(marked, max_pixels=MOST), decode(data, max_pixels=MOST))


def test_another_order_of_packets_asks_for_no_more_than_the_headers_allow() -> None:
    """With POC packets aren't counted; the decoder goes over no more planes of a block than the header says."""
    data = jpeg2000_files.blocks_of_passes(256, 256, data=bytes(8))
    many, few = (jpeg2000_files.segment(0xFF5C, bytes([0, planes + 1 << 3])) for planes in (30, 1))
    order = jpeg2000_files.segment(0xFF5F, struct.pack(">BBHBBB", 0, 0, 1, 1, 1, 0))
    found = [jpeg2000.read(io.BytesIO(data.replace(many, q + order))) for q in (many, few)]
    assert [f.planes // 256**2 for f in found if f] == [31, 2]


def test_small_blocks_count_by_their_number() -> None:
    data = small_blocks(flat())
    with pytest.raises(DecodeError, match=r"bit-planes of samples \(400 million and 20 for each byte"):
        decode(data, max_pixels=MOST)


def test_the_memory_of_small_blocks_is_told() -> None:
    data = bytes(flat(800, codeblock_size=(4, 4)))
    told, plain = (look(d, max_pixels=MOST).bytes for d in (data, bytes(flat(800))))
    assert told > plain + 0.9 * 3 * 200**2 * BLOCK_BYTES
    assert peak.of(lambda: decode(data, max_pixels=MOST), warm=lambda: decode(data, max_pixels=MOST)) < told + (4 << 20)
