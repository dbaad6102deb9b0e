"""Reads the header of a GGUF file in bounded time and memory.

The constants come from the `gguf` package; its own reader makes a Python object of every token (seconds, and no limit
on what a hostile file may ask for), so the bytes are walked here: long values are skipped, every count has a limit.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import struct
from pathlib import Path
from typing import BinaryIO, Final

from gguf import GGML_QUANT_SIZES, GGUF_MAGIC, GGMLQuantizationType, GGUFValueType, LlamaFileType

from tokenworks.hub.model import ModelHeader
from tokenworks.kit.errors import InvalidRequestError
from tokenworks.kit.files import storage_errors

_VERSIONS = (2, 3)
_HEADER_BYTES_MAX = 256 * 1024 * 1024
_FIELDS_MAX = 4_096
_TENSORS_MAX = 100_000
_KEY_BYTES_MAX = 1_024
_STRING_BYTES_MAX = 4_194_304
_ARRAY_ITEMS_MAX = 8_388_608
_DIMENSIONS_MAX = 8
_ALIGNMENT_DEFAULT = 32

_SCALARS: Final = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
    GGUFValueType.BOOL: "<?",
}

Value = str | int | float | bool | None


def read_gguf_header(path: Path) -> ModelHeader:
    """What the file says about its model.

    Raises:
        InvalidRequestError: it is not a GGUF model, is cut short, or is over our limits.
        UnavailableError: it cannot be read.
    """
    with storage_errors(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        walk = _Walk(file, path.name)
        try:
            return _read(walk, size)
        except (UnicodeDecodeError, ValueError) as error:
            raise walk.invalid(f"its header is damaged ({error})") from error


def _read(walk: "_Walk", size: int) -> ModelHeader:
    if walk.take(4) != struct.pack("<I", GGUF_MAGIC):
        raise walk.invalid("it does not begin with the letters GGUF")
    version = walk.number("<I")
    if version not in _VERSIONS:
        raise walk.invalid(f"its version is {version}, known are {_VERSIONS}")
    tensors = walk.count("<Q", _TENSORS_MAX, "tensors")
    fields = walk.fields(walk.count("<Q", _FIELDS_MAX, "fields"))
    alignment = fields.get("general.alignment", _ALIGNMENT_DEFAULT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise walk.invalid(f"its alignment is {alignment!r}")
    parameters, data_bytes = walk.tensors(tensors)
    data_at = -(-walk.position // alignment) * alignment
    if data_at + data_bytes > size:
        raise walk.invalid(f"it is cut short: {size} bytes instead of at least {data_at + data_bytes}")
    architecture = _text(walk, fields, "general.architecture")
    return ModelHeader(
        format="gguf",
        architecture=architecture,
        context_tokens=_positive(walk, fields, f"{architecture}.context_length"),
        parameters=parameters,
        quantisation=_quantisation(fields.get("general.file_type")),
        licence=str(fields["general.license"])[:128] if fields.get("general.license") else None,
    )


def _text(walk: "_Walk", fields: dict[str, Value], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise walk.invalid(f"its field {key!r} is {value!r}")
    return value


def _positive(walk: "_Walk", fields: dict[str, Value], key: str) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or not 0 < value < 2**31:
        raise walk.invalid(f"its field {key!r} is {value!r}")
    return value


def _quantisation(file_type: Value) -> str:
    if not isinstance(file_type, int):
        return "unknown"
    try:
        return LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "unknown"


class _Walk:
    """Reads one value after the other and knows where it is."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.position = 0

    def invalid(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self._name} is not a GGUF model that can be used: {why}", code="invalid_model")

    def take(self, size: int) -> bytes:
        self.position += size
        if self.position > _HEADER_BYTES_MAX:
            raise self.invalid(f"its header is over {_HEADER_BYTES_MAX} bytes")
        content = self._file.read(size)
        if len(content) != size:
            raise self.invalid("it ends inside its header")
        return content

    def number(self, code: str) -> int:
        (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
        assert isinstance(value, int)
        return value

    def count(self, code: str, limit: int, what: str) -> int:
        value = self.number(code)
        if value > limit:
            raise self.invalid(f"it claims {value} {what}, the limit is {limit}")
        return value

    def string(self, limit: int = _STRING_BYTES_MAX) -> bytes:
        return self.take(self.count("<Q", limit, "bytes of one text"))

    def fields(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self.string(_KEY_BYTES_MAX).decode()
            found[key] = self._value(GGUFValueType(self.number("<I")))
        return found

    def tensors(self, count: int) -> tuple[int, int]:
        """Walk over the tensors; returns how many elements they have, and where the last one ends."""
        elements = 0
        end = 0
        for _ in range(count):
            self.string(_KEY_BYTES_MAX)
            dimensions = self.count("<I", _DIMENSIONS_MAX, "dimensions")
            size = math.prod(self.number("<Q") for _ in range(dimensions))
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self.number("<I"))]
            end = max(end, self.number("<Q") + size // block * block_bytes)
            elements += size
        return elements, end

    def _value(self, kind: GGUFValueType) -> Value:
        if kind == GGUFValueType.STRING:
            return self.string().decode()
        if kind == GGUFValueType.ARRAY:
            self._skip_array()
            return None
        code = _SCALARS[kind]
        (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
        assert isinstance(value, int | float | bool)
        return value

    def _skip_array(self) -> None:
        kind = GGUFValueType(self.number("<I"))
        count = self.count("<Q", _ARRAY_ITEMS_MAX, "items of one list")
        if kind == GGUFValueType.ARRAY:
            raise self.invalid("it has a list of lists")
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                self.string()
        else:
            self.take(count * struct.calcsize(_SCALARS[kind]))
