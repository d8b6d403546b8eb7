"""What a pickle of torch's names, and what torch's unpickler would make of it, added up before that runs.

torch's restricted unpickler calls only what it knows, but takes any number for a size, and makes bytes, sets and dicts
of one value as often as a file asks. Here nothing is made: every value is a count of the bytes that a copy would take.
"""

from __future__ import annotations

import math
import mmap
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias, cast

from pipeline.base.budget import OBJECT_BYTES, Budget

Readable: TypeAlias = "IO[bytes] | mmap.mmap"
# torch looks what is called up among all that it knows.
_CALL_STEPS = 20
# The numbers that these are given are shapes and places in a storage, and claim nothing.
_VIEWS = frozenset(
    {"torch.Size", "torch.device"}
    | {f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "tensor_v3", "parameter", "qtensor")}
)
_BIGGEST_VALUE_BYTES = 16
_ALONE = frozenset({"NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"})
_TEXTS = frozenset({"BINUNICODE", "SHORT_BINSTRING"})
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"})


@dataclass(slots=True)
class _Value:
    """`size`: bytes of a copy; `number` if it is one, `parts` if it is a tuple, `name` if it is what a file names."""

    size: int = 0
    number: int = 0
    parts: tuple[_Value, ...] = ()
    name: str = ""


_MARK = _Value()


@dataclass
class _Sums:
    budget: Budget
    stack: list[_Value] = field(default_factory=list)
    memo: dict[int, _Value] = field(default_factory=dict)

    def marked(self) -> list[_Value]:
        """The values above the last mark, which goes too."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("a container ends that never began")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def push_tuple(self, parts: list[_Value]) -> None:
        self.stack.append(_Value(OBJECT_BYTES * len(parts), parts=tuple(parts)))

    def call(self) -> None:
        """REDUCE and NEWOBJ: what is made may hold a copy of each argument."""
        arguments, called = self.stack.pop(), self.stack.pop()
        size = sum(part.size for part in arguments.parts)
        is_view = called.name in _VIEWS
        self.budget.work(_CALL_STEPS)
        self.budget.make(size if is_view else size + _numbers(arguments, self.budget))
        # (storage, offset, shape, ...): what comes of a tensor if it is copied. Its storage may be one value.
        if called.name.startswith("torch._utils._rebuild_tensor") and len(arguments.parts) > 2:
            size = _BIGGEST_VALUE_BYTES * math.prod(n.number for n in arguments.parts[2].parts)
        self.stack.append(_Value(size))

    def constant(self, content_bytes: int = 0) -> None:
        self.budget.make(OBJECT_BYTES + content_bytes)
        self.stack.append(_Value(content_bytes))

    def number(self, value: float) -> None:
        self.stack.append(_Value(number=abs(int(value)) if math.isfinite(value) else 0))

    def build(self) -> None:
        """An object takes its state over, or both halves of one."""
        state = self.stack.pop()
        self.budget.work(_CALL_STEPS)
        self.budget.make(state.size + sum(part.size for part in state.parts))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def top(self, count: int) -> list[_Value]:
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def hold(self, items: list[_Value]) -> None:
        """A container takes what stood above it."""
        self.stack[-1].size += OBJECT_BYTES * len(items)

    def load(self) -> None:
        """A storage, whose bytes are the file's own."""
        self.stack[-1] = _Value()


# The opcodes that torch's unpickler knows.
_STEPS: dict[str, Callable[[_Sums, Any], None]] = {
    **dict.fromkeys(_ALONE, lambda s, _: s.constant()),
    **dict.fromkeys(_TEXTS, lambda s, text: s.constant(4 * len(text))),
    **dict.fromkeys(_NUMBERS, lambda s, number: s.number(number)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda s, index: s.remember(index)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda s, index: s.stack.append(s.memo[index])),
    **dict.fromkeys(("APPENDS", "SETITEMS"), lambda s, _: s.hold(s.marked())),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda s, _: s.call()),
    **dict.fromkeys(("PROTO", "STOP"), lambda s, _: None),
    "APPEND": lambda s, _: s.hold(s.top(1)),
    "SETITEM": lambda s, _: s.hold(s.top(2)),
    "GLOBAL": lambda s, named: s.stack.append(_Value(name=_named(named))),
    "MARK": lambda s, _: s.stack.append(_MARK),
    "TUPLE": lambda s, _: s.push_tuple(s.marked()),
    "TUPLE1": lambda s, _: s.push_tuple(s.top(1)),
    "TUPLE2": lambda s, _: s.push_tuple(s.top(2)),
    "TUPLE3": lambda s, _: s.push_tuple(s.top(3)),
    "BUILD": lambda s, _: s.build(),
    "BINPERSID": lambda s, _: s.load(),
}


def names(file: Readable, pickles: int, budget: Budget) -> list[str]:
    """What the next pickles of a file name, in order, as `module.name` of Python 3.

    `file` gives at most what it has, however much is asked for. Raises TooMuchError, and what pickletools raises on
    bytes that are no pickle.
    """
    found: dict[str, None] = {}
    for _ in range(pickles):
        sums = _Sums(budget)
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            budget.work()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise ValueError(f"opcode {opcode.name}")
            step(sums, argument)
            if opcode.name == "GLOBAL":
                found[_named(str(argument))] = None
    return list(found)


def _named(argument: str) -> str:
    module, name = str(argument).split(" ", 1)
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _numbers(value: _Value, budget: Budget) -> int:
    """The sum of all numbers in a tuple and the tuples in it."""
    total, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        total += value.number
        budget.work(len(value.parts))
        waiting.extend(value.parts)
    return total
