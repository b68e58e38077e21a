"""What may not be in an ONNX file that is opened: weights outside it, and operators that bring code. Parses no more.

The names below are ONNX's own (onnx.proto); only the wire format of protocol buffers is read, so that a machine which serves needs
no `onnx`. An EPContext node, for one, holds an engine that a provider would load.
"""

from collections.abc import Iterator

_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message -> number of a field -> the message in it."""
_DOMAIN = 7  # of a node
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


def what_is_refused(data: bytes) -> str:
    """In a few words what must not be there; empty where all is well."""
    try:
        return next(_refused(memoryview(data), "model"), "")
    except (IndexError, ValueError):
        return "is no ONNX file"


def _refused(message: memoryview, kind: str) -> Iterator[str]:
    for number, value in _fields(message):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            yield "keeps weights outside itself"
        if (
            kind == "node"
            and number == _DOMAIN
            and not isinstance(value, int)
            and bytes(value) not in (b"", b"ai.onnx")
        ):
            yield f"uses operators of {bytes(value).decode(errors='replace')!r}"
        if number in _INSIDE[kind] and not isinstance(value, int):
            yield from _refused(value, _INSIDE[kind][number])


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field. Raises IndexError or ValueError where it is no message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise IndexError
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
