"""Plain values read as Python reads them; everything else is refused, nothing is run, no number claims memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.base.budget import FREE_BYTES, FREE_STEPS, Budget, TooMuchError
from pipeline.nets.weights.legacy import plain_pickle
from pipeline.nets.weights.legacy.plain_pickle import BrokenError
from tests.nets.weights import make_neon


def loads(data: bytes) -> Any:
    return plain_pickle.loads(data, Budget("it", len(data)))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", ">f4", "<f8", "<f2", "u1", "<i8", ">u4", "?"]),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4),
    elements={"allow_nan": False},
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=12,
)  # fmt: skip


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
@example(b"", 2)
@example({"t": (1, b"ab" * 1000, np.arange(3.0)), "n": 2**1000 - 1}, 2)
@settings(max_examples=150, deadline=None)
def test_plain_values_as_python_reads_them(value: Any, protocol: int) -> None:
    assert same(loads(pickle.dumps(value, protocol=protocol)), value)


@given(VALUES)
@settings(max_examples=75, deadline=None)
def test_optimised_pickles_too(value: Any) -> None:
    assert same(loads(pickletools.optimize(pickle.dumps(value, protocol=4))), value)


def test_ordered_dicts_scalars_and_fortran_order() -> None:
    fortran = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    value = {"o": OrderedDict(b=1, a=fortran), "s": np.float32(1.5), "big": fortran.T}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        read = loads(pickle.dumps(value, protocol=protocol))
        assert list(read["o"]) == ["b", "a"] and read["s"] == 1.5 and np.array_equal(read["o"]["a"], fortran)
        assert np.array_equal(read["big"], fortran.T)


def test_strings_of_python_2_keep_every_byte() -> None:
    everything = bytes(range(256)) * 8
    assert loads(make_neon.python2({"s": everything}))["s"].encode("latin-1") == everything
    assert loads(make_neon.python2([("é", everything)]))[0][1] == everything.decode("latin-1")


def test_one_array_named_twice_is_one() -> None:
    array = np.arange(3.0)
    read = loads(pickle.dumps([array, array]))
    assert read[0] is read[1] and not read[0].flags.writeable


class Runs:
    """Its pickle calls `call` with `arguments`."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


HOSTILE = {
    "os.system": pickle.dumps(Runs(os.system, "touch PWNED"), protocol=2),
    "os.system, newest": pickle.dumps({"model": Runs(os.system, "touch PWNED")}),
    "eval": pickle.dumps(Runs(eval, "open('PWNED', 'w')"), protocol=0),
    "bytes": b"\x80\x02c__builtin__\nbytes\nJ\x00\x00\x00\x7f\x85R.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\ncos\nPWNED\n\x86R.",
    "inst": b"(S'touch PWNED'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch PWNED'\no.",
    "newobj": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pname\n.",
    "call of data": b"\x80\x02U\x01aU\x01b\x85R.",
    "a name alone": b"cnumpy\nndarray\n.",
    "a name in a list": b"](cnumpy\nndarray\ne.",
    "a name in a tuple": b"]cnumpy\nndarray\n\x85a.",
    "a name in two tuples": b"]cnumpy\nndarray\n\x85\x85a.",
    "an empty array": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R.",
    "an object array": pickle.dumps(np.array([{}, []], dtype=object)),
    "a record array": pickle.dumps(np.zeros(2, dtype=[("a", "f4")])),
    "a subarray dtype": b"cnumpy\ndtype\nU\x10(1000000000,3)f4K\0K\1\x87R.",
    "a name that is not text": b"](K\1K\2e0N]\x93.",
    "a set": pickle.dumps({1, 2}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_all_that_is_not_plain_is_refused_and_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenError):
        loads(HOSTILE[name])
    assert list(tmp_path.iterdir()) == []


HUGE = struct.pack("<Q", 1 << 60)
LIES = {
    "binstring": b"T\xff\xff\xff\x7fabc.",
    "negative binstring": b"T\xff\xff\xff\xffabc.",
    "bytes8": b"\x8e" + HUGE + b".",
    "bytearray8": b"\x96" + HUGE + b".",
    "unicode8": b"\x8d" + HUGE + b".",
    "frame": b"\x80\x04\x95" + HUGE + b"N.",
    "memo put": b"Nr\xff\xff\xff\xff.!",
    "memo get": b"Nj\xff\xff\xff\xff.",
    "long text": b"L" + b"9" * 100_000 + b"L\n.",
    "array": pickle.dumps(np.zeros(4, np.float32), 2).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"),
    "negative shape": pickle.dumps(np.zeros(4, np.float32), 2).replace(b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
    "many axes": pickle.dumps(np.zeros(4, np.float32), 2).replace(b"K\x04\x85", b"(" + b"K\x01" * 50 + b"K\x04t"),
}


@pytest.mark.parametrize("name", LIES)
def test_sizes_that_lie_claim_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        if name == "memo put":
            assert loads(LIES[name]) is None  # the index is a key, not a length
        else:
            with pytest.raises(BrokenError):
                loads(LIES[name])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"K",
        b"a.",
        b"(.",
        b"t.",
        b"\x87.",
        b"]K\1s.",
        b"}K\1a.",
        b"}](K\1K\2eK\3s.",  # a list as a key
        b"(K\1d.",  # a key without a value
        b"h\0.",
        b"Iabc\n.",
        b"Fabc\n.",
        b"Sabc\n.",
        b"X\1\0\0\0\xff.",
        b"0.",
        b"1.",
        b"2.",
        b"b.",
        b"Nb.",
        b"NNb.",
        b"R.",
        b"not a pickle",
    ],
)
def test_broken_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenError):
        loads(data)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BrokenError):
        loads(data)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(make_neon.python2({"a": np.arange(3.0), "b": [1, 2.5, ("x", None)]}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BrokenError):
        loads(bytes(whole))


def test_deep_nesting_needs_no_stack() -> None:
    assert isinstance(loads(b"]" * 100_000 + b"a" * 99_999 + b"."), list)
    with pytest.raises(BrokenError, match="neither text nor numbers"):
        loads(b"}" + b")" + b"\x85" * 100_000 + b"Ns.")


def test_what_is_made_is_bounded_whatever_opcodes_make_it() -> None:
    with pytest.raises(TooMuchError, match=f"allowed: {FREE_BYTES:,} bytes and 16 times"):
        loads(b"T\x40\x42\x0f\0" + b"a" * 1_000_000 + b"q\0](" + b"h\0" * 30 + b"e.")
    with pytest.raises(TooMuchError, match=f"allowed: {FREE_STEPS:,} steps"):
        loads(b"N" + b"Np0\n0" * (FREE_STEPS // 2) + b".")
