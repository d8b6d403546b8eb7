"""Reads containers, text, numbers and numpy arrays out of a pickle, and runs nothing that it names.

This is a machine of its own over the opcodes of protocols 0 to 5 (as the standard library's pickletools lists them),
not a limited `pickle.Unpickler`: a name in the file only selects one of the reconstructions in _MAKERS, and is never
imported or called. A size is compared with the bytes that are left before anything of that size is made, an array is a
view of the file's own bytes, and a memo is a dict, so that no number in the file can claim memory. What is made again
each time that a file asks for it is taken off a `Budget`.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.base.budget import OBJECT_BYTES, Budget

# Digits in a text number. Longer ones take Python quadratic time.
_MOST_DIGITS = 4000
# A string of Python 2 may be the bytes of an array. Longer ones are decoded only if they turn out to be text.
_LONG_BYTES = 1024
_DTYPE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")
_BUILTINS = frozenset({"__builtin__", "builtins"})


class BrokenError(Exception):
    """The bytes are no pickle, or one of something else than plain values. Says in words what is wrong."""


class _Mark:
    """Where a container's items begin on the stack."""


class _Loose(tuple[Any, ...]):
    """A tuple of arguments: it may hold names, dtypes and undecoded text, which no container keeps."""


class _Name:
    """A global that the file names; nothing was looked up."""

    def __init__(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BrokenError("it names something that is not text")
        # numpy 2 moved its private modules; Python 2 pickles the same classes under other modules.
        self.text = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if module in _BUILTINS:
            self.text = f"builtins.{name}"


class _Array:
    """An array that `_reconstruct` announced and BUILD fills."""

    value: np.ndarray | None = None


class _Dtype:
    """A dtype by its name, and the byte order that BUILD adds."""

    def __init__(self, name: Any) -> None:
        match = _DTYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise BrokenError("it holds an array of something else than numbers")
        self.dtype = np.dtype(match[1])
        if name.startswith(">"):
            self.dtype = self.dtype.newbyteorder(">")


class _LongText:
    """A long string of Python 2, as the file's own bytes."""

    def __init__(self, raw: memoryview) -> None:
        self.raw = raw


def loads(data: bytes, budget: Budget) -> Any:
    """The plain value in a pickle; strings of Python 2 are read as Latin-1. Arrays are read-only views of `data`.

    Raises BrokenError if it is cut short, lies about a size, or names anything but arrays and plain containers, and
    TooMuchError if it asks for more than its length allows.
    """
    try:
        return _Machine(data, budget).run()
    except (IndexError, struct.error):
        raise BrokenError("it ends in the middle") from None
    except (ValueError, TypeError, OverflowError, AttributeError, RecursionError) as e:
        raise BrokenError(f"it is not a pickle ({str(e)[:80]})") from None


def _items(values: list[Any]) -> list[tuple[Any, Any]]:
    """Alternating keys and values. Keys must be text or numbers: hashing a deep tuple can exhaust C's stack."""
    if len(values) % 2 or not all(isinstance(key, str | int) for key in values[::2]):
        raise BrokenError("it holds a dict whose keys are neither text nor numbers")
    return list(zip(values[::2], values[1::2], strict=True))


def _array(data: Any, dtype: Any, shape: Any, *, fortran: bool) -> np.ndarray:
    sizes_ok = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(dtype, _Dtype) or not sizes_ok:
        raise BrokenError("it holds an array without a known dtype and shape")
    raw = data.raw if isinstance(data, _LongText) else data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(raw, bytes | memoryview) or len(raw) != math.prod(shape) * dtype.dtype.itemsize:
        raise BrokenError(f"it holds an array whose bytes are not those of {dtype.dtype} {tuple(shape)[:8]}")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _make_dtype(name: Any, *_: Any) -> _Dtype:
    return _Dtype(name)


def _make_scalar(dtype: Any, data: Any) -> int | float | bool:
    value: int | float | bool = _array(data, dtype, (), fortran=False).item()
    return value


def _make_bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise BrokenError("it holds bytes in an unknown encoding")
    return text.encode("latin-1")


def _make_ordered(pairs: Any = ()) -> dict[Any, Any]:
    return dict(_items([value for pair in pairs for value in pair]))


def _make_buffered(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(data, dtype, shape, fortran=order == "F")


# What a file may name. Their arguments are plain values already; the functions here stand for the named ones.
_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray.scalar": _make_scalar,
    "numpy.core.numeric._frombuffer": _make_buffered,
    "numpy.dtype": _make_dtype,
    "_codecs.encode": _make_bytes,
    "collections.OrderedDict": _make_ordered,
    "builtins.bytes": lambda: b"",  # how Python 3 writes no bytes at all for Python 2
}
# Named only as an argument of _reconstruct.
_INERT = frozenset({"numpy.ndarray"})


class _Machine:
    def __init__(self, data: bytes, budget: Budget) -> None:
        self.bytes, self.data, self.at = data, memoryview(data), 0
        self.budget = budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            self.budget.work()
            code = self.data[self.at]
            self.at += 1
            if code == ord("."):
                return self.plain(self.stack.pop())
            step = _STEPS.get(code)
            if step is None:
                raise BrokenError(f"opcode {chr(code)!r} at byte {self.at - 1} is none of plain values")
            step(self)

    def take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self.data) - self.at:
            raise BrokenError(f"{size} bytes are announced where {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def line(self) -> str:
        """Text up to the end of the line, as protocol 0 writes all it has."""
        end = self.bytes.find(b"\n", self.at)
        if end < 0:
            raise BrokenError("it ends in the middle")
        text = self.text(self.take(end - self.at), "latin-1")
        self.at += 1
        return text

    def whole(self) -> int:
        text = self.line().removesuffix("L")
        if len(text) > _MOST_DIGITS:
            raise BrokenError(f"it holds a number of {len(text)} digits")
        return int(text)

    def push(self, value: Any) -> None:
        self.budget.make(OBJECT_BYTES)
        self.stack.append(value)

    def text(self, raw: bytes | memoryview, encoding: str, errors: str = "strict") -> str:
        """A character may take four bytes."""
        self.budget.make(4 * len(raw))
        return str(raw, encoding, errors)

    def copied(self, value: Any) -> None:
        """Takes off what a copy needs, with what lies in it: the pairs of a dict may all be one long list."""
        if isinstance(value, list | tuple):
            self.budget.work(len(value))
            held = sum(len(inner) for inner in value if isinstance(inner, list | tuple | str))
            self.budget.make(OBJECT_BYTES * (len(value) + held))
        elif isinstance(value, str | bytes | memoryview):
            self.budget.make(len(value))

    def utf8(self, raw: memoryview) -> str:
        return self.text(raw, "utf-8", "surrogatepass")

    def plain(self, value: Any) -> Any:
        """A value to keep in a container or to return: announced arrays must have been filled."""
        if isinstance(value, _Array):
            if value.value is None:
                raise BrokenError("it holds an array without content")
            return value.value
        if isinstance(value, _LongText):
            return self.text(value.raw, "latin-1")
        if isinstance(value, memoryview):
            self.budget.make(len(value))
            return bytes(value)
        if isinstance(value, _Loose):
            self.budget.work(len(value))
            self.budget.make(OBJECT_BYTES * len(value))
            return tuple(self.plain(v) for v in value)
        if isinstance(value, _Name | _Mark | _Dtype):
            raise BrokenError("it holds something else than plain values")
        return value

    def push_tuple(self, values: list[Any]) -> None:
        inner = [self.plain(v) if isinstance(v, _Loose) else v for v in values]
        items = [v.value if isinstance(v, _Array) and v.value is not None else v for v in inner]
        loose = any(isinstance(v, _Name | _Dtype | _Array | _LongText | _Mark | memoryview) for v in items)
        self.push(_Loose(items) if loose else tuple(items))

    def marked(self) -> list[Any]:
        """The values above the last mark, which goes too."""
        start = next((i for i in range(len(self.stack) - 1, -1, -1) if isinstance(self.stack[i], _Mark)), None)
        if start is None:
            raise BrokenError("a container ends that never began")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def last(self, kind: type[Any]) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise BrokenError("it fills something that is not a container")
        return self.stack[-1]

    def append(self, values: list[Any]) -> None:
        self.last(list).extend(self.plain(v) for v in values)

    def set_items(self, values: list[Any]) -> None:
        self.last(dict).update((key, self.plain(v)) for key, v in _items(values))

    def name(self, module: str, name: str) -> None:
        named = _Name(module, name)
        if named.text not in _MAKERS and named.text not in _INERT:
            raise BrokenError(f"it names {named.text[:80]}, and only arrays and plain values are read")
        self.push(named)

    def reduce(self) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        maker = _MAKERS.get(named.text) if isinstance(named, _Name) else None
        if maker is None or not isinstance(arguments, tuple):
            raise BrokenError("it calls something that is not an array and no plain value")
        for argument in arguments:
            self.copied(argument)
        self.push(maker(*arguments))

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, _Dtype) and isinstance(state, tuple) and len(state) >= 3:
            # (version, byte order, ...): what follows describes records, which no array here has.
            if any(part is not None for part in state[2:5]):
                raise BrokenError("it holds an array of records")
            if state[1] == ">":
                built.dtype = built.dtype.newbyteorder(">")
        elif isinstance(built, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            self.copied(data)
            built.value = _array(data, dtype, shape, fortran=bool(fortran))
        else:
            raise BrokenError("it sets the state of something that is not an array")

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise BrokenError(f"it refers to a value that it never kept, number {index % 10**9}")
        self.push(self.memo[index])


def _text2(raw: memoryview) -> str | _LongText:
    """A string of Python 2: bytes or text, nobody knows which; Latin-1 keeps every byte."""
    return _LongText(raw) if len(raw) > _LONG_BYTES else str(raw, "latin-1")


def _quoted(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
        raise BrokenError("it holds a string without quotes")
    return codecs.escape_decode(line[1:-1].encode("latin-1"))[0].decode("latin-1")


def _int_or_bool(m: _Machine) -> int | bool:
    """Protocol 0 and 1 write True as I01 and False as I00."""
    start = m.at
    value = m.whole()
    return bool(value) if bytes(m.data[start : start + 3]) in (b"00\n", b"01\n") else value


def _top(m: _Machine, count: int) -> list[Any]:
    """The last `count` values, taken off the stack."""
    if len(m.stack) < count:
        raise BrokenError("a tuple ends that never began")
    values = m.stack[len(m.stack) - count :]
    del m.stack[len(m.stack) - count :]
    return values


def _frame(m: _Machine) -> None:
    if m.number("Q") > len(m.data) - m.at:
        raise BrokenError("a frame is longer than the file")


def _one_item(m: _Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


_STEPS: dict[int, Callable[[_Machine], Any]] = {
    # Where things begin, and what changes only the stack.
    0x80: lambda m: m.take(1),  # PROTO
    0x95: _frame,  # FRAME
    ord("("): lambda m: m.push(_Mark()),  # MARK
    ord("0"): lambda m: m.stack.pop(),  # POP
    ord("1"): lambda m: m.marked(),  # POP_MARK
    ord("2"): lambda m: m.push(m.stack[-1]),  # DUP
    # Numbers.
    ord("N"): lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    ord("I"): lambda m: m.push(_int_or_bool(m)),  # INT
    ord("L"): lambda m: m.push(m.whole()),  # LONG
    ord("J"): lambda m: m.push(m.number("i")),  # BININT
    ord("K"): lambda m: m.push(m.number("B")),  # BININT1
    ord("M"): lambda m: m.push(m.number("H")),  # BININT2
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),  # LONG1
    ord("F"): lambda m: m.push(float(m.line())),  # FLOAT
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    # Text and bytes. Arrays' bytes stay views.
    ord("S"): lambda m: m.push(_quoted(m.line())),  # STRING
    ord("T"): lambda m: m.push(_text2(m.take(m.number("i")))),  # BINSTRING
    ord("U"): lambda m: m.push(_text2(m.take(m.number("B")))),  # SHORT_BINSTRING
    ord("V"): lambda m: m.push(m.line().encode("latin-1").decode("raw-unicode-escape")),  # UNICODE
    ord("X"): lambda m: m.push(m.utf8(m.take(m.number("I")))),  # BINUNICODE
    0x8C: lambda m: m.push(m.utf8(m.take(m.number("B")))),  # SHORT_BINUNICODE
    0x8D: lambda m: m.push(m.utf8(m.take(m.number("Q")))),  # BINUNICODE8
    ord("B"): lambda m: m.push(m.take(m.number("I"))),  # BINBYTES
    ord("C"): lambda m: m.push(m.take(m.number("B"))),  # SHORT_BINBYTES
    0x8E: lambda m: m.push(m.take(m.number("Q"))),  # BINBYTES8
    0x96: lambda m: m.push(m.take(m.number("Q"))),  # BYTEARRAY8
    # Containers.
    ord("]"): lambda m: m.push([]),  # EMPTY_LIST
    ord("l"): lambda m: m.push([m.plain(v) for v in m.marked()]),  # LIST
    ord("a"): lambda m: m.append([m.stack.pop()]),  # APPEND
    ord("e"): lambda m: m.append(m.marked()),  # APPENDS
    ord(")"): lambda m: m.push(()),  # EMPTY_TUPLE
    ord("t"): lambda m: m.push_tuple(m.marked()),  # TUPLE
    0x85: lambda m: m.push_tuple(_top(m, 1)),  # TUPLE1
    0x86: lambda m: m.push_tuple(_top(m, 2)),  # TUPLE2
    0x87: lambda m: m.push_tuple(_top(m, 3)),  # TUPLE3
    ord("}"): lambda m: m.push({}),  # EMPTY_DICT
    ord("d"): lambda m: m.push({key: m.plain(v) for key, v in _items(m.marked())}),  # DICT
    ord("s"): _one_item,  # SETITEM
    ord("u"): lambda m: m.set_items(m.marked()),  # SETITEMS
    # The memo.
    ord("p"): lambda m: m.remember(m.whole()),  # PUT
    ord("q"): lambda m: m.remember(m.number("B")),  # BINPUT
    ord("r"): lambda m: m.remember(m.number("I")),  # LONG_BINPUT
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("g"): lambda m: m.recall(m.whole()),  # GET
    ord("h"): lambda m: m.recall(m.number("B")),  # BINGET
    ord("j"): lambda m: m.recall(m.number("I")),  # LONG_BINGET
    # Names: of the reconstructions above, or refused.
    ord("c"): lambda m: m.name(m.line(), m.line()),  # GLOBAL
    0x93: lambda m: m.name(*_top(m, 2)),  # STACK_GLOBAL
    ord("R"): lambda m: m.reduce(),  # REDUCE
    ord("b"): lambda m: m.build(),  # BUILD
}
