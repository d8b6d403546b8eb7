"""The layout of packed bits, pinned by literal bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.base.errors import UserError
from pipeline.hashing.pack import pack, unpack


def test_the_first_bit_is_the_high_bit_of_byte_0() -> None:
    bits = np.zeros((2, 16), dtype=bool)
    bits[0, 0] = bits[0, 15] = bits[1, 9] = True
    assert pack(bits).tobytes() == b"\x80\x01\x00\x40"


@given(npst.arrays(bool, st.tuples(st.integers(0, 5), st.integers(1, 8).map(lambda n: 8 * n))))
def test_unpack_is_the_inverse(bits: np.ndarray) -> None:
    packed = pack(bits)
    assert packed.shape == (len(bits), bits.shape[1] // 8)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed), bits)


@given(npst.arrays(bool, (2, 24)))
def test_hamming_distance_is_the_popcount_of_the_xor(bits: np.ndarray) -> None:
    a, b = pack(bits)
    assert int(np.bitwise_count(a ^ b).sum()) == int((bits[0] != bits[1]).sum())


@pytest.mark.parametrize("bits", [np.zeros((2, 12), bool), np.zeros((2, 0), bool), np.zeros(8, bool), np.zeros((2, 8))])
def test_what_does_not_fill_bytes_is_refused(bits: np.ndarray) -> None:
    with pytest.raises(UserError, match="bits"):
        pack(bits)


@pytest.mark.parametrize("packed", [np.zeros((2, 2), np.int64), np.zeros(2, np.uint8)])
def test_unpack_refuses_what_pack_never_makes(packed: np.ndarray) -> None:
    with pytest.raises(UserError, match="packed"):
        unpack(packed)
