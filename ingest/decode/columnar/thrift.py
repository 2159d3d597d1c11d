"""Thrift's compact protocol, as far as Parquet's footer and the heads of its pages are written in it."""

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BYTES, _LIST, _SET, _MAP, _STRUCT = range(13)
_INTS = frozenset({_I16, _I32, _I64})
_MOST_DEPTH = 16
_LONG_LIST = 15

Fields = dict[int, object]
"""The fields of a struct by their numbers."""


class Damaged(Exception):
    """The bytes are not what they should be."""


class Compact:
    """Reads structs from bytes, one behind the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def struct(self, depth: int = 0) -> Fields:
        """The fields of the next struct; `Damaged` if it is none."""
        if depth > _MOST_DEPTH:
            raise Damaged
        fields: Fields = {}
        number = 0
        while (tag := self._byte()) & 0x0F != _STOP:
            number = number + (tag >> 4) if tag >> 4 else self._int()
            fields[number] = self._value(tag & 0x0F, depth)
        return fields

    def _value(self, kind: int, depth: int) -> object:
        if kind in _INTS:
            return self._int()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTES:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind in (_BYTE, _DOUBLE):
            return self._take(1 if kind == _BYTE else 8)
        raise Damaged

    def _list(self, depth: int) -> list[object]:
        head = self._byte()
        count, kind = head >> 4, head & 0x0F
        if count == _LONG_LIST:
            count = self._varint()
        if kind in (_TRUE, _FALSE):
            kind = _BYTE  # in a list it takes a byte
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self._data):
            raise Damaged
        return self._data[start : self.position]

    def _byte(self) -> int:
        try:
            byte = self._data[self.position]
        except IndexError:
            raise Damaged from None
        self.position += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Damaged

    def _int(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def natural(fields: Fields, number: int) -> int:
    """The number in this field, 0 if there is none."""
    value = fields.get(number, 0)
    if not isinstance(value, int) or value < 0:
        raise Damaged
    return value


def inner(fields: Fields, number: int) -> Fields:
    """The struct in this field."""
    value = fields.get(number)
    if not isinstance(value, dict):
        raise Damaged
    return value


def structs(fields: Fields, number: int) -> list[Fields]:
    """The list of structs in this field."""
    value = fields.get(number)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Damaged
    return value
