"""Pickles that would run code, take memory or time, or read what is not theirs."""

import struct
from pathlib import Path

import pytest

from tests.hub.hostile.pickles import (
    BUILD,
    FILE,
    NEWOBJ,
    NO_ARGUMENTS,
    PERSID,
    PROTO,
    REDUCE,
    STOP,
    call,
    name,
    number,
    several,
    storage,
    tensor,
    text,
    write,
)
from tests.hub.hostile.watch import refused
from tl_transcoders.hub.torch_file import MAX_PICKLE_BYTES, read_torch

CANARY = "touch canary"
RUN = call("os", "system", text(CANARY))
RECORD = name("a", "B") + NO_ARGUMENTS + NEWOBJ

CODE = {
    "os.system": RUN,
    "posix.system": call("posix", "system", text(CANARY)),
    "eval": call("builtins", "eval", text("open('canary', 'w')")),
    "exec": call("builtins", "exec", text("open('canary', 'w')")),
    "getattr": call("builtins", "getattr", name("os", "path"), text("join")),
    "import": call("importlib", "import_module", text("antigravity")),
    "a dotted name": call("os", "path.join", text("a")),
    "a name with spaces": call("collections OrderedDict", "x"),
    "protocol 0": b"cos\nsystem\n(S'touch canary'\ntR",
    "INST": b"(S'touch canary'\nios\nsystem\n",
    "OBJ": b"(" + name("os", "system") + text(CANARY) + b"o",
    "NEWOBJ with arguments": name("subprocess", "Popen") + several(text(CANARY)) + NEWOBJ,
    "NEWOBJ of a value": text("x") + NO_ARGUMENTS + NEWOBJ,
    "NEWOBJ_EX": name("os", "system") + NO_ARGUMENTS + b"}" + b"\x92",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + several(text(CANARY)) + REDUCE,
    "a nested call": call("torch._utils", "_rebuild_parameter", RUN),
    "a call of a call": call("operator", "attrgetter", text("system")) + NO_ARGUMENTS + REDUCE,
    "a call of a record": RECORD + NO_ARGUMENTS + REDUCE,
    "a call of a dict": b"}" + NO_ARGUMENTS + REDUCE,
    "a call of a tensor": tensor() + NO_ARGUMENTS + REDUCE,
    "a call without a tuple": name("collections", "OrderedDict") + b"N" + REDUCE,
    "OrderedDict of items": call("collections", "OrderedDict", b"]"),
    "a rebuilder of anything": call("torch._utils", "_rebuild_from_type_v2", name("os", "system")),
    "a rebuilder with a bad global": call(
        "torch._utils", "_rebuild_tensor_v2", name("os", "system"), number(0), b")", b")"
    ),
    "a rebuilder with a bad parameter": call("torch._utils", "_rebuild_parameter", text("x")),
    "a rebuilder of numpy": call("numpy.core.multiarray", "_reconstruct", number(0)),
    "a pickle inside": call("torch.storage", "_load_from_bytes", text("x")),
    "torch.load": call("torch", "load", text("canary")),
    "state of a tensor": tensor() + b"}" + BUILD,
    "state of a name": name("os", "environ") + b"}" + BUILD,
    "state that is no dict": RECORD + several(b"N", b"}") + BUILD,
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"P0\n",
}
STACK = {
    "nothing": b"",
    "no end": b"N",
    "an empty stack": b"0",
    "TUPLE2 of one": b"N\x86",
    "items without a mark": b"}u",
    "items below a mark": b"}(N(s",
    "a mark left over": b"(N",
    "values left over": b"NN",
    "a pop into a mark": b"N(" + NO_ARGUMENTS + REDUCE,
    "odd items": b"}(Nu",
    "items for a list": b"](NNu",
    "items for a tuple": b")Na",
    "a list as a key": b"}]Ns",
    "a tuple as a key": b"}" + several(*[NO_ARGUMENTS] * 2) + b"Ns",
    "an unknown opcode": b"\xfe",
    "DUP": b"N2",
    "POP": b"NN0",
    "bytes": b"C\x01a",
    "text that is no text": b"X\x02\x00\x00\x00\xff\xfe",
    "text that ends early": b"X\xff\xff\xff\x7f",
    "a float that ends early": b"G\x00",
    "zeros": b"\0" * 1000,
}
MEMO = {
    "nothing there": b"h\x07",
    "far away": b"j\xff\xff\xff\xff",
    "a put of nothing": b"q\x00",
    "a put of a mark": b"(q\x00",
    "a put far away": b"Nr\xff\xff\xff\xff0",
    "MEMOIZE": b"N\x94",
    "GET": b"g0\n",
}
NUMBERS = {
    "LONG4 of two gigabytes": b"\x8b\xff\xff\xff\x7f",
    "LONG4 of a negative length": b"\x8b\xff\xff\xff\xff",
    "LONG4": b"\x8b\x00\xc0\x00\x00" + b"\x7f" * 49152,
    "a decimal of 50,000 digits": b"L" + b"9" * 50_000 + b"L\n",
    "INT": b"I" + b"9" * 50_000 + b"\n",
}
PROTOCOL = {
    "protocol 5": b"\x80\x05N",
    "protocol 255": b"\x80\xffN",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**62),
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**62),
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**63),
    "FRAME": b"\x95" + struct.pack("<Q", 2**62),
    "EMPTY_SET": b"\x8f",
}
STORAGES = {
    "no such key": tensor(storage(key="7")),
    "a key that leaves": tensor(storage(key="../../../../etc/passwd")),
    "the pickle itself": tensor(storage(key="../data.pkl")),
    "a length that lies": tensor(storage(length=7)),
    "a negative length": tensor(storage(length=-6)),
    "a huge length": tensor(storage(length=2**70)),
    "a dtype of another size": tensor(storage(name("torch", "DoubleStorage"))),
    "an unknown dtype": tensor(storage(name("torch", "QInt8Storage"))),
    "a class of something else": tensor(storage(name("os", "FloatStorage"))),
    "no class": tensor(storage(text("FloatStorage"))),
    "no tuple": text("storage") + PERSID,
    "another kind": several(text("module"), text("os")) + PERSID,
    "a list as a key": several(text("storage"), name("torch", "FloatStorage"), b"]", b"N", b"N")
    + PERSID,
}
VIEWS = {
    "beyond the end": tensor(offset=1),
    "far beyond": tensor(offset=2**62),
    "before the start": tensor(offset=-1),
    "a stride beyond": tensor(stride=(4, 1)),
    "a negative stride": tensor(offset=5, stride=(-3, -1)),
    "a huge stride": tensor(size=(1, 1), stride=(2**63, 1)),
    "a huge size": tensor(size=(2**62,), stride=(0,)),
    "one element many times": tensor(size=(10**6, 10**6), stride=(0, 0)),
    "sizes that overflow": tensor(size=(2**32, 2**32, 0), stride=(0, 0, 0)),
    "a product that overflows": tensor(size=(2**33, 2**33), stride=(0, 0)),
    "more strides than sizes": tensor(stride=(3, 1, 1)),
    "many dimensions": tensor(size=(1,) * 1000, stride=(1,) * 1000),
    "a size that is text": call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage(),
        number(0),
        several(text("2")),
        several(number(1)),
    ),
    "an empty one beyond the end": tensor(offset=7, size=(0,), stride=(1,)),
}
LARGE = {
    "dicts": b"(" + b"}" * (MAX_PICKLE_BYTES - 10) + b"t",
    "nested tuples": b")" + b"\x85" * 30_000,
    "nested lists": b"]" * 20_000 + b"a" * 19_999,
    "nested dicts": b"}" + b"K\x00}" * 10_000 + b"s" * 10_000,
    "nested records": RECORD + b"q\x00" + b"}K\x00h\x00sb" * 5_000,
    "a list in itself": b"]q\x00" + b"h\x00a" * 10_000,
    "doubled again and again": b"]q\x00" + b"(h\x00h\x00lq\x00" * 10_000,
    "tensors": tensor()[:-1] + b"q\x001q\x01" + b"h\x00h\x01R" * 10_000,
    "marks": b"(" * (MAX_PICKLE_BYTES - 10),
}
ALL = {
    f"{group}: {title}": body
    for group, bodies in {
        "code": CODE,
        "stack": STACK,
        "memo": MEMO,
        "numbers": NUMBERS,
        "protocol": PROTOCOL,
        "storages": STORAGES,
        "views": VIEWS,
        "large": LARGE,
    }.items()
    for title, body in bodies.items()
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("body", ALL.values(), ids=ALL.keys())
def test_it_is_refused(tmp_path: Path, body: bytes) -> None:
    folder = write(tmp_path / "set", PROTO + body + (STOP if body != b"N" else b""))
    error = refused(folder)
    assert error.where.startswith(FILE)
    assert len(str(error)) < 2000
    assert list((tmp_path / "here").iterdir()) == []


DOUBLED = several(b")q\x01" + b"h\x01h\x01\x86q\x01" * 99)
"""A tuple of tuples, the last of which would be 2**99 characters of text."""


@pytest.mark.parametrize(
    "value",
    [
        RUN,
        RECORD,
        RECORD + b"}" + text("a") + DOUBLED + b"s" + BUILD,
        DOUBLED,
        b"]" * 9999 + b"a" * 9998,
        tensor(),
        name("os", "system"),
    ],
)
@pytest.mark.parametrize("attribute", ["hook_point", "d_in", "model_name"])
def test_an_attribute_that_is_something_else(tmp_path: Path, attribute: str, value: bytes) -> None:
    cfg = {
        "is_transcoder": b"\x89",
        "hook_point": text("blocks.3.hook_resid_pre"),
        "d_in": number(2),
        "d_sae": number(3),
        attribute: value,
    }
    items = b"".join(text(key) + content for key, content in cfg.items())
    record = RECORD + b"}(" + items + b"u" + BUILD
    weights = b"}(" + text("W_enc") + tensor() + b"u"
    body = b"}(" + text("cfg") + record + text("state_dict") + weights + b"u"
    refused(write(tmp_path / "set", PROTO + body + STOP))


def test_a_storage_of_two_dtypes(tmp_path: Path) -> None:
    halves = storage(name("torch", "HalfStorage"), length=12)
    folder = write(tmp_path / "set", PROTO + several(tensor(), tensor(halves)) + STOP)
    assert "storage '0' as torch.float32 and as torch.float16" in refused(folder).got


def test_a_long_pickle(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", PROTO + b"N0" * MAX_PICKLE_BYTES + b"N" + STOP)
    assert "at most 100,000 bytes" in refused(folder).expected


def test_the_tensor_itself_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "set", PROTO + tensor() + STOP) / FILE
    assert read_torch(path).tolist() == [[0, 1, 2], [3, 4, 5]]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_name_that_is_only_kept_stays_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "set", PROTO + name("antigravity", "fly") + STOP) / FILE
    assert str(read_torch(path)) == "Global(module='antigravity', name='fly')"


@pytest.mark.parametrize(
    ("more", "got"),
    [
        ({"archive/byteorder": b"big"}, "b'big'"),
        ({"archive/byteorder": b"little" * 9}, "54 bytes"),
        ({"other/data.pkl": b"N."}, "2 files data.pkl"),
    ],
)
def test_other_members(tmp_path: Path, more: dict[str, bytes], got: str) -> None:
    folder = write(tmp_path / "set", PROTO + b"N" + STOP, more=more)
    assert refused(folder).got == got
