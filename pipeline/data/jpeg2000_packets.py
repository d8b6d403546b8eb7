"""How many bit-planes of samples the code-blocks of a JPEG 2000 have the decoder go over, told from the headers of its
packets (ISO/IEC 15444-1, B.5 to B.10).

A code-block of three bytes can ask for thirty planes of 4,096 samples, where a sound one has some planes and hundreds
of bytes. The decoder goes over all that are asked for, data or not.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

# Of a plane the decoder makes three passes, of a block's first one alone.
_PASSES_OF_A_PLANE = 3
MOST_PLANES = 30  # the decoder takes no block of more
_MOST_PASSES = _PASSES_OF_A_PLANE * MOST_PLANES - 2
# What counting itself costs, in planes of samples that the decoder goes over in the same time: for a precinct and each
# of its bands; for a block that is looked at, one that is read, and one that is read for the first time.
_SET_UP, _LOOK, _READ, _FIRST = 1000, 150, 600, 900
_SEGMENT_PASSES = 109  # at most, as the decoder has it

_LAZY, _ENDED = 1, 4  # styles of coding that cut a block's data into several segments
_SOP, _EPH = b"\xff\x91", b"\xff\x92"
_SOP_BYTES = 6
_UNKNOWN = 1 << 30


class _CutOffError(Exception):
    """A header that ends before it says all."""


class _NotSoundError(Exception):
    """A header that no encoder writes."""


class Coding(NamedTuple):
    """What COD says, for all tiles and components alike. `block`, `precincts`: log2 (width, height), `precincts` from
    the lowest resolution on. `marked`: packets may begin with SOP, headers end with EPH.
    """

    progression: int
    layers: int
    levels: int
    block: tuple[int, int]
    style: int
    precincts: tuple[tuple[int, int], ...]
    marked: bool


class Tile(NamedTuple):
    """[left, right) x [top, bottom) in samples of the image; `data`: of its parts, one behind the other."""

    left: int
    top: int
    right: int
    bottom: int
    data: bytes


def planes(tile: Tile, coding: Coding, components: int, most: int) -> int:
    """Planes of samples that a tile's blocks ask for, with what counting them takes; `most` + 1 or more once that is
    exceeded.
    """
    header = _Header(tile.data)
    total, parts = 0, []
    try:
        for part in _parts(tile, coding, components):
            parts.append(part)
            total += _SET_UP * (1 + len(part.bands)) + _LOOK * sum(len(band.passes) for band in part.bands)
            if total > most:
                return total
        for layer, part in _in_order(parts, coding):
            total += _packet(header, part, layer, coding)
            if total > most or header.at >= len(tile.data):
                break
    except _CutOffError:  # the decoder takes what it has up to there
        pass
    except _NotSoundError:
        return most + 1
    return total


@dataclass(slots=True)
class _Tree:
    """A tag tree (B.10.2) over (width, height) leaves: what is known of each node, and up to where it was asked."""

    width: int
    height: int
    sizes: list[tuple[int, int]] = field(init=False)  # (first node, width) of each level, leaves first
    value: list[int] = field(init=False)
    low: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.sizes, count = [], 0
        width, height = self.width, self.height
        while True:
            self.sizes.append((count, width))
            count += width * height
            if width * height <= 1:
                break
            width, height = (width + 1) // 2, (height + 1) // 2
        self.value, self.low = [_UNKNOWN] * count, [0] * count

    def is_below(self, header: _Header, x: int, y: int, threshold: int) -> bool:
        """Whether the leaf's value is below `threshold`, which reads what isn't known yet."""
        leaf = y * self.sizes[0][1] + x
        if self.low[leaf] >= threshold:
            return False
        low = node = 0
        for level in range(len(self.sizes) - 1, -1, -1):
            first, width = self.sizes[level]
            node = first + (y >> level) * width + (x >> level)
            low = max(low, self.low[node])
            most = min(threshold, self.value[node])
            while low < most:
                if header.bits(1):
                    self.value[node] = low
                    break
                low += 1
            self.low[node] = low
        return self.value[node] < threshold


@dataclass(slots=True)
class _Band:
    """The code-blocks of one precinct in one sub-band, row by row.

    `area`: samples of a block at most. A value a block: `passes` so far, 0 before it is in a packet; `length_bits`, how
    long its next length is; `segment`, passes in its last segment; `room`, those it may have in all (0: there is none).
    """

    across: int
    down: int
    area: int
    included: _Tree = field(init=False)
    zeros: _Tree = field(init=False)
    passes: list[int] = field(init=False)
    length_bits: list[int] = field(init=False)
    segment: list[int] = field(init=False)
    room: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.included, self.zeros = _Tree(self.across, self.down), _Tree(self.across, self.down)
        count = self.across * self.down
        self.passes, self.length_bits = [0] * count, [3] * count
        self.segment, self.room = [0] * count, [0] * count


class _Part(NamedTuple):
    """A precinct: what one packet a layer is of. `y`, `x`: where it begins in the image."""

    resolution: int
    component: int
    y: int
    x: int
    number: int
    bands: list[_Band]


class _Header:
    """Bits of packets' headers: behind a byte of 255 the next has seven."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self._bits, self._left, self._byte = 0, 0, 0

    def bits(self, count: int) -> int:
        while self._left < count:
            if self.at >= len(self.data):
                raise _CutOffError
            added = 7 if self._byte == 0xFF else 8
            self._byte = self.data[self.at]
            self.at += 1
            self._bits = self._bits << added | self._byte & (1 << added) - 1
            self._left += added
        self._left -= count
        value = self._bits >> self._left
        self._bits &= (1 << self._left) - 1
        return value

    def end(self) -> None:
        if self._byte == 0xFF:  # a stuffed byte follows
            self.at += 1
        self._bits = self._left = self._byte = 0


def _parts(tile: Tile, coding: Coding, components: int) -> Iterator[_Part]:
    for resolution in range(coding.levels + 1):
        scale = coding.levels - resolution
        across, down = coding.precincts[resolution]
        left, top, right, bottom = (-(-edge >> scale) for edge in tile[:4])
        if left >= right or top >= bottom:
            continue
        rows, columns = range(top >> down, -(-bottom >> down)), range(left >> across, -(-right >> across))
        for component in range(components):
            for number, (y, x) in enumerate((y, x) for y in rows for x in columns):
                place = max(tile.top, y << down + scale), max(tile.left, x << across + scale)
                yield _Part(resolution, component, *place, number, list(_bands(tile, coding, resolution, x, y)))


def _bands(tile: Tile, coding: Coding, resolution: int, x: int, y: int) -> Iterator[_Band]:
    """The bands of one precinct, which is in column x and row y of a resolution."""
    halved = int(resolution > 0)
    scale = coding.levels - resolution + halved
    across, down = (size - halved for size in coding.precincts[resolution])
    if min(across, down) < 0:
        raise _NotSoundError
    block_across, block_down = min(coding.block[0], across), min(coding.block[1], down)
    for high_x, high_y in ((1, 0), (0, 1), (1, 1)) if halved else ((0, 0),):
        shift_x, shift_y = (high << scale - 1 if high else 0 for high in (high_x, high_y))
        left = max(-(-(tile.left - shift_x) >> scale), x << across)
        right = min(-(-(tile.right - shift_x) >> scale), x + 1 << across)
        top = max(-(-(tile.top - shift_y) >> scale), y << down)
        bottom = min(-(-(tile.bottom - shift_y) >> scale), y + 1 << down)
        if left >= right or top >= bottom:
            continue
        columns = -(-right >> block_across) - (left >> block_across)
        rows = -(-bottom >> block_down) - (top >> block_down)
        area = min(right - left, 1 << block_across) * min(bottom - top, 1 << block_down)
        yield _Band(columns, rows, area)


# By the number in COD: what comes first.
_ORDERS = {
    2: operator.itemgetter(0, 2, 3, 1, 4),  # resolution, position, component
    3: operator.itemgetter(2, 3, 1, 0, 4),  # position, component, resolution
    4: operator.itemgetter(1, 2, 3, 0, 4),  # component, position, resolution
}


def _in_order(parts: list[_Part], coding: Coding) -> Iterator[tuple[int, _Part]]:
    """(layer, precinct) of each packet, as they follow one another (B.12)."""
    layers = range(coding.layers)
    if coding.progression == 0:  # layer, resolution, component
        return ((layer, part) for layer in layers for part in parts)
    if coding.progression == 1:  # resolution, layer, component
        of = [[part for part in parts if part.resolution == r] for r in range(coding.levels + 1)]
        return ((layer, part) for some in of for layer in layers for part in some)
    return ((layer, part) for part in sorted(parts, key=_ORDERS[coding.progression]) for layer in layers)


def _packet(header: _Header, part: _Part, layer: int, coding: Coding) -> int:
    """Reads a packet's header and goes behind its data. Returns what its new passes and the reading take."""
    if coding.marked and header.data.startswith(_SOP, header.at):
        header.at += _SOP_BYTES
    taken, length = _LOOK, 0
    if header.bits(1):
        for band in part.bands:
            taken += _LOOK * len(band.passes)
            for i, before in enumerate(band.passes):
                if before:
                    if not header.bits(1):
                        continue
                else:
                    y, x = divmod(i, band.across)
                    if not band.included.is_below(header, x, y, layer + 1):
                        continue
                    _require_planes(header, band.zeros, x, y)
                    taken += _FIRST
                length += _segments(header, band, i, coding.style)
                taken += _READ + band.area * (_planes(band.passes[i]) - _planes(before))
    header.end()
    if coding.marked and header.data.startswith(_EPH, header.at):
        header.at += len(_EPH)
    header.at += length
    return taken


def _planes(passes: int) -> int:
    return (min(passes, _MOST_PASSES) + 2) // _PASSES_OF_A_PLANE


def _require_planes(header: _Header, zeros: _Tree, x: int, y: int) -> None:
    for threshold in range(1, 1 << 7):
        if zeros.is_below(header, x, y, threshold):
            return
    raise _NotSoundError


def _segments(header: _Header, band: _Band, i: int, style: int) -> int:
    """Reads how many passes a packet adds to a block. Returns the bytes of their data."""
    left = _new_passes(header)
    while header.bits(1):
        band.length_bits[i] += 1
        if band.length_bits[i] > 32:
            raise _NotSoundError
    band.passes[i] += left
    length = 0
    while left:
        if band.segment[i] >= band.room[i]:
            band.segment[i], band.room[i] = 0, _room(band.room[i], style)
        some = min(left, band.room[i] - band.segment[i])
        length += header.bits(band.length_bits[i] + some.bit_length() - 1)
        band.segment[i] += some
        left -= some
    return length


def _room(before: int, style: int) -> int:
    """Passes that a block's next segment may have, behind one of `before` (0: the first)."""
    if style & _ENDED:
        return 1
    if not style & _LAZY:
        return _SEGMENT_PASSES
    if not before:
        return 10
    return 2 if before in (1, 10) else 1


def _new_passes(header: _Header) -> int:
    """Table B.4."""
    for count, bits, none in ((1, 1, 1), (2, 1, 1), (3, 2, 3), (6, 5, 31)):
        more = header.bits(bits)
        if more != none:
            return count + more
    return 37 + header.bits(7)


def of_tiles(tiles: Iterable[Tile], coding: Coding, components: int, most: int) -> int:
    """`planes` of all tiles together."""
    total = 0
    for tile in tiles:
        total += planes(tile, coding, components, most - total)
        if total > most:
            break
    return total
