"""The header of an npy array: type, order and shape, as a literal of Python.

    93 'NUMPY' 01 00    magic and version; 2.0 and 3.0 have a uint32 length
    n                   uint16, little endian: length of the header, at most 10,000 here
    header              {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, padded with
                        blanks and a newline so that the data starts at a multiple of 64

Specified by numpy/lib/_format_impl.py (v2.4.6, module docstring). Python 2 wrote shapes as
`(3L, 4L)`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from ..dtypes import DType
from ..errors import CorruptFileError
from .zip_archive import MemberStream

__all__ = [
    "LENGTH_BYTES",
    "MAGIC",
    "NpyHeader",
    "build_header",
    "carrier_dtype",
    "parse_header",
    "read_header_text",
]

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # by version
MAX_HEADER_BYTES = 10_000  # _format_impl.py, _MAX_HEADER_SIZE
ALIGNMENT = 64  # _format_impl.py, ARRAY_ALIGN
MAX_DIMENSIONS = 64  # numpy's own limit, which turns Fortran order round; others are only copied
GROWTH_DIGITS = 21  # _format_impl.py, GROWTH_AXIS_MAX_DIGITS: room for a longer first dimension

# Type by the letter and width of a descr: `f4`, `c16`.
DTYPES = {f"{dtype.label[0]}{dtype.itemsize}": dtype for dtype in DType if dtype.native}

_DESCR = re.compile(r"([<>|]?)([A-Za-z])(\d{0,9})")
# What a header never holds and the Python parser warns about: escapes, numbers run into words.
_ODD = re.compile(r"\\|\b\d+[A-Za-z_]")
_LONG = re.compile(r"(?<=\d)L(?=[,)])")  # Python 2


class NpyHeader(NamedTuple):
    """What an npy header says.

    Attributes:
        kind: letter of the type, as in numpy's descr.
        width: bytes of an element; code points where the kind is `U`.
        big_endian: byte order.
        fortran: whether the first dimension varies fastest.
        shape: the dimensions.
    """

    kind: str
    width: int
    big_endian: bool
    fortran: bool
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.width * (4 if self.kind == "U" else 1)

    @property
    def descr(self) -> str:
        """The type as numpy writes it."""
        return f"{'<>'[self.big_endian] if self.width > 1 else '|'}{self.kind}{self.width}"


def read_header_text(stream: MemberStream, version: bytes) -> bytes:
    """Return the header after magic and `version`, which tells how its length is stored."""
    if version not in LENGTH_BYTES:
        raise CorruptFileError("version of npy", expected="1.0, 2.0 or 3.0", got=list(version))
    length = int.from_bytes(stream.read(LENGTH_BYTES[version]), "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptFileError(
            "length of the npy header", expected=f"at most {MAX_HEADER_BYTES}", got=length
        )
    return stream.read(length)


@lru_cache(maxsize=1024)  # models repeat shapes, and parsing takes 15 µs
def parse_header(text: bytes) -> NpyHeader:
    """Decode the header of an array, in whatever version.

    Raises:
        CorruptFileError: it is no literal of the three keys, or the type is not read.
    """
    from ast import literal_eval  # 5 ms of start-up that only npz files need

    source = _LONG.sub("", text.decode("latin-1"))
    if _ODD.search(source):
        raise CorruptFileError("npy header is no plain literal", got=source.strip())
    try:
        content = literal_eval(source)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise CorruptFileError(f"npy header is no literal: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"descr", "fortran_order", "shape"}:
        raise CorruptFileError(
            "npy header", expected="descr, fortran_order and shape", got=source.strip()
        )
    fortran, shape = content["fortran_order"], content["shape"]
    if not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise CorruptFileError(
            "npy header", expected="a boolean and a tuple", got=f"{fortran!r}, {shape!r}"
        )
    if any(type(dim) is not int or not 0 <= dim < 1 << 63 for dim in shape):
        raise CorruptFileError("shape", expected="natural numbers below 2^63", got=shape)
    if fortran and len(shape) > MAX_DIMENSIONS:
        raise CorruptFileError("dimensions", expected=f"at most {MAX_DIMENSIONS}", got=len(shape))
    return NpyHeader(*_parse_descr(content["descr"]), fortran, shape)


def _parse_descr(descr: object) -> tuple[str, int, bool]:
    """Return kind, width and whether it is big endian."""
    match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
    order, kind, width = match.groups() if match else ("", "", "")
    if kind == "O":
        raise CorruptFileError(
            "an array of objects needs pickle, which could run code, so it is not read",
            hint="in numpy: convert it to a type of fixed size, and save it again",
        )
    if not width or (kind not in "SUV" and f"{kind}{width}" not in DTYPES) or int(width) == 0:
        raise CorruptFileError(
            "type", expected=f"one of {', '.join(DTYPES)}, S<n>, U<n>", got=repr(descr)
        )
    return kind, int(width), order == ">"


def carrier_dtype(header: NpyHeader, recorded: DType | None) -> DType:
    """Return the type that the container holds."""
    if header.kind in "SU":
        return DType.STRING
    if header.kind != "V":
        return DTYPES[f"{header.kind}{header.width}"]
    carrier = DType.named(recorded.carrier) if recorded else None
    if carrier is None or carrier.itemsize != header.width:
        raise CorruptFileError(
            "bytes of a type that numpy has no name for", got=repr(header.descr),
            hint="in numpy: array.view(ml_dtypes.bfloat16).astype('float32'), and save it again",
        )  # fmt: skip
    return carrier


def build_header(code: str, shape: tuple[int, ...]) -> bytes:
    """Return all that precedes the data, as numpy's write_array_header_1_0 writes it."""
    text = f"{{'descr': {code!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (GROWTH_DIGITS - len(repr(shape[0])))
    least = len(MAGIC) + 4 + len(text) + 1
    text += " " * (ALIGNMENT - least % ALIGNMENT) + "\n"  # a whole line where none is needed
    return MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")
