"""A pickle as data: tensors and plain values, and names of everything else.

Nothing in a pickle is imported or called. A global is only its name; two rebuilders of torch's tensors and
the empty OrderedDict are known by name and done here, and a named tuple is a tuple; an object of any other class
that is nothing but its attributes becomes a `Record`. Every other opcode is refused, so that neither time nor memory can grow
beyond the length of the pickle.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.storage import Storage, StridesError


@final
@dataclass(frozen=True, slots=True)
class Global:
    """The name of something in a module, which stays a name."""

    module: str
    name: str


@final
@dataclass(frozen=True, slots=True)
class Record:
    """The attributes of an object whose class is only a name; they may hold one another without end, so no text shows them."""

    kind: Global
    state: dict[str, object] = field(repr=False)


def unpickle(data: bytes, where: str, storage: Callable[[object], Storage]) -> object:
    """What the pickle says, with `storage` giving the elements that a persistent id stands for.

    **Raises:** TranscoderFormatError, naming the opcode, for whatever is not plain data or a tensor.
    """
    machine = _Machine(storage)
    name = "the first opcode"
    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return machine.result()
            machine.step(name, argument)
    except (_Refused, StridesError) as error:
        raise _refusal(where, f"{error} (at {name})") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise _refusal(where, f"no valid pickle ({error}, at {name})") from error
    raise _refusal(where, "a pickle without an end")


@final
class _Refused(Exception):
    """Something that is neither plain data nor a tensor."""


def _refusal(where: str, got: str) -> TranscoderFormatError:
    return TranscoderFormatError(
        where,
        got=got,
        expected="tensors and plain data",
        do="Do not open it with torch.load unless you trust its author; ask for safetensors.",
    )


_NAMED_TUPLES = frozenset({Global("circuit_tracer.attribution.targets", "LogitTarget")})
_PLAIN = frozenset("BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE".split())
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PROTOCOL = 2


@final
@dataclass(slots=True)
class _Machine:
    """The stack, the heights of its marks, and the memo."""

    storage: Callable[[object], Storage]
    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def step(self, name: str, argument: object) -> None:
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[name])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise _Refused("an opcode that plain data do not need")

    def result(self) -> object:
        (value,) = self.pop(1)
        if self.stack or self.marks:
            raise _Refused("values left over")
        return value

    def pop(self, count: int) -> list[object]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            raise _Refused("a stack that is empty")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_marked(self) -> list[object]:
        if not self.marks:
            raise _Refused("no mark on the stack")
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def top(self) -> object:
        (value,) = self.pop(1)
        self.stack.append(value)
        return value

    def extend_list(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise _Refused(f"items for a {type(target).__name__}")
        target.extend(values)

    def extend_dict(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise _Refused(f"items for a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise _Refused(f"a {type(key).__name__} as the key of a dict")
            target[key] = value

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        self.stack.append(_called(function, arguments))

    def instance(self) -> None:
        kind, arguments = self.pop(2)
        if kind in _NAMED_TUPLES and isinstance(arguments, tuple):
            self.stack.append(arguments)
            return
        if not isinstance(kind, Global) or arguments != ():
            raise _Refused("an object that is made with arguments")
        self.stack.append(Record(kind, {}))

    def build(self) -> None:
        (state,) = self.pop(1)
        target = self.top()
        if not isinstance(state, dict) or not isinstance(target, Record | dict):
            raise _Refused(f"a {type(state).__name__} as the state of a {type(target).__name__}")
        if isinstance(target, Record):
            target.state.update({key: state[key] for key in state if isinstance(key, str)})

    def remember(self, index: object) -> None:
        assert isinstance(index, int)
        self.memo[index] = self.top()

    def recall(self, index: object) -> None:
        assert isinstance(index, int)
        self.stack.append(self.memo[index])


def _called(function: object, arguments: object) -> object:
    match function, arguments:
        case Global("collections", "OrderedDict"), ():
            return {}
        case Global("torch", "device"), (str(kind), *_):
            return kind
        case (
            Global("torch._utils", "_rebuild_tensor_v2"),
            (Storage() as storage, int(offset), tuple(size), tuple(stride), *_),
        ):
            return storage.tensor(offset, size, stride)
        case Global("torch._utils", "_rebuild_parameter"), (Tensor() as tensor, *_):
            return tensor
        case Global(module, name), _:
            raise _Refused(f"a call of {module[:60]!r} {name[:60]!r}")
        case _:
            raise _Refused(f"a call of a {type(function).__name__}")


def _global(argument: object) -> Global:
    module, _, name = str(argument).partition(" ")
    return Global(module, name)


def _check_protocol(version: object) -> None:
    if version != _PROTOCOL:
        raise _Refused(f"protocol {version}, where torch.save writes {_PROTOCOL}")


_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda _, version: _check_protocol(version),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_marked())),
    "APPEND": lambda machine, _: machine.extend_list(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend_list(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.extend_dict(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.extend_dict(machine.pop_marked()),
    "GLOBAL": lambda machine, argument: machine.stack.append(_global(argument)),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.storage(*machine.pop(1))),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.instance(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
}
