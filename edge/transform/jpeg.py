"""Pictures of eight bits as baseline JPEG (ISO/IEC 10918-1), for people: lossy, never for an object that is kept.

Grey, or RGB as YCbCr without subsampling; one quantization table and the Huffman tables of annex K.3.3.1 for all
components. Loads numpy, and works on whole arrays: a picture of 512 x 512 takes some 20 ms.
"""

from __future__ import annotations

from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Annex K.1, table K.1.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
#: Coefficients in the order in which they are written (figure A.6): along the diagonals, to and fro.
_ZIGZAG = np.array(
    sorted(range(64), key=lambda at: (sum(divmod(at, 8)), at // 8 if sum(divmod(at, 8)) % 2 else at % 8)), dtype="i8"
)
_DCT = np.array(
    [[np.sqrt((1 if u else 0.5) / 4) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)] for u in range(8)],
    dtype="f4",
)
#: Tables K.3 and K.5: how many codes have each length, and the symbols by ascending code.
_DC_LENGTHS = bytes.fromhex("00010501010101010100000000000000")
_DC_SYMBOLS = bytes(range(12))
_AC_LENGTHS = bytes.fromhex("0002010303020403050504040000017d")
_AC_SYMBOLS = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a34353637"
    "38393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3"
    "a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_NO_MORE, _SIXTEEN_ZEROS = 0x00, 0xF0
#: Codes whose bits are laid out at a time.
_STEP = 1 << 18


def encode_jpeg(picture: Array, quality: int = 90) -> bytes:
    """A picture, grey or RGB of eight bits. `quality`: 1 to 100."""
    rows, columns = picture.shape[:2]
    planes = _ycc_planes(picture) if picture.ndim == 3 else picture[np.newaxis].astype("f4")
    table = _quantization(quality)
    coefficients = np.stack([_coefficients(each, table) for each in planes], axis=1)  # blocks, components, 64
    scan = _pack_codes(*_codes(coefficients)).replace(b"\xff", b"\xff\x00")
    return _head(rows, columns, len(planes), table) + scan + b"\xff\xd9"


def _ycc_planes(picture: Array) -> Array:
    """ITU-R BT.601, as JFIF has it."""
    red, green, blue = np.moveaxis(picture.astype("f4"), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack((luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402))


def _quantization(quality: int) -> Array:
    scale = 50 / quality if quality < 50 else (100 - quality) / 50
    table: Array = np.clip(np.floor(_LUMINANCE * scale + 0.5), 1, 255)
    return table


def _coefficients(plane: Array, table: Array) -> Array:
    """Quantized coefficients of the blocks of a plane, row by row."""
    rows, columns = plane.shape
    whole = np.pad(plane, ((0, -rows % 8), (0, -columns % 8)), mode="edge") - 128
    down, across = whole.shape[0] // 8, whole.shape[1] // 8
    blocks = whole.reshape(down, 8, across, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    found = np.rint(_DCT @ blocks @ _DCT.T / table).astype("i4")
    ordered: Array = found.reshape(-1, 64)[:, _ZIGZAG]
    return ordered


def _huffman(lengths: bytes, symbols: bytes) -> tuple[Array, Array]:
    """Codes and their lengths, by symbol (annex C)."""
    codes, sizes, code, at = np.zeros(256, "u8"), np.zeros(256, "i8"), 0, 0
    for length, count in enumerate(lengths, 1):
        for _ in range(count):
            codes[symbols[at]], sizes[symbols[at]] = code, length
            code, at = code + 1, at + 1
        code <<= 1
    return codes, sizes


_DC_CODES, _DC_SIZES = _huffman(_DC_LENGTHS, _DC_SYMBOLS)
_AC_CODES, _AC_SIZES = _huffman(_AC_LENGTHS, _AC_SYMBOLS)


def _codes(coefficients: Array) -> tuple[Array, Array]:
    """What is written, in order: codes with the bits that follow them, and their lengths; at most 64 bits."""
    components = coefficients.shape[1]
    first = np.diff(coefficients[:, :, 0], axis=0, prepend=np.zeros((1, components), "i4")).reshape(-1)
    flat = coefficients.reshape(-1, 64)
    block, at = np.nonzero(flat[:, 1:])
    values, at = flat[block, at + 1], at + 1
    is_new = np.diff(block, prepend=-1) != 0
    run = np.where(is_new, at - 1, at - np.roll(at, 1) - 1)
    ac_code, ac_size = _code_values(values, _AC_CODES, _AC_SIZES, (run % 16) << 4)
    for zeros in (1, 2, 3):  # codes for sixteen zeros come before
        more = run // 16 >= zeros
        ac_code[more] |= _AC_CODES[_SIXTEEN_ZEROS] << ac_size[more].astype("u8")
        ac_size[more] += _AC_SIZES[_SIXTEEN_ZEROS]
    dc_code, dc_size = _code_values(first, _DC_CODES, _DC_SIZES, np.zeros(len(first), "i8"))
    open_blocks = np.nonzero(flat[:, 63] == 0)[0]
    end_code = np.full(len(open_blocks), _AC_CODES[_NO_MORE])
    end_size = np.full(len(open_blocks), _AC_SIZES[_NO_MORE])
    order = np.argsort(
        np.concatenate((np.arange(len(flat)) * 65, block * 65 + at, open_blocks * 65 + 64)), kind="stable"
    )
    return (np.concatenate((dc_code, ac_code, end_code))[order], np.concatenate((dc_size, ac_size, end_size))[order])


def _code_values(values: Array, codes: Array, sizes: Array, runs: Array) -> tuple[Array, Array]:
    """The Huffman code of each value's number of bits, and those bits (annexes F.1.2.1 and F.1.2.2)."""
    bits = np.frexp(np.abs(values).astype("f8"))[1].astype("i8")  # 0 for 0
    symbol = runs + bits
    low = np.where(values < 0, values + (1 << bits) - 1, values).astype("u8")
    return codes[symbol] << bits.astype("u8") | low, sizes[symbol] + bits


def _pack_codes(codes: Array, sizes: Array) -> bytes:
    """The bits end to end, filled up with ones."""
    pieces = []
    for begin in range(0, len(codes), _STEP):
        code, size = codes[begin : begin + _STEP], sizes[begin : begin + _STEP]
        ends = np.cumsum(size)
        which = np.repeat(np.arange(len(size)), size)
        shift = ends[which] - 1 - np.arange(int(ends[-1]))
        pieces.append((code[which] >> shift.astype("u8") & 1).astype("u1"))
    bits = np.concatenate(pieces)
    return np.packbits(np.concatenate((bits, np.ones(-len(bits) % 8, "u1")))).tobytes()


def _head(rows: int, columns: int, components: int, table: Array) -> bytes:
    """All before the scan (annex B, and JFIF 1.02)."""
    quantization = table.reshape(-1)[_ZIGZAG].astype("u1").tobytes()
    frame = pack(">BHHB", 8, rows, columns, components) + b"".join(
        bytes((i, 0x11, 0)) for i in range(1, components + 1)
    )
    scan = bytes((components,)) + b"".join(bytes((i, 0)) for i in range(1, components + 1)) + b"\0\x3f\0"
    segments = (
        (0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01\0\0"),
        (0xDB, b"\0" + quantization),
        (0xC0, frame),
        (0xC4, b"\0" + _DC_LENGTHS + _DC_SYMBOLS),
        (0xC4, b"\x10" + _AC_LENGTHS + _AC_SYMBOLS),
        (0xDA, scan),
    )
    return b"\xff\xd8" + b"".join(pack(">BBH", 0xFF, mark, len(data) + 2) + data for mark, data in segments)
