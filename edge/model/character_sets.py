"""The Defined Terms of Specific Character Set (PS3.3 section C.12.1.1.2), and Python's codecs for them."""

from __future__ import annotations

ASCII = "ascii"

#: ISO registration of a set of single bytes -> codec (PS3.3 tables C.12-2 and C.12-3).
_SINGLE_BYTE = {
    "6": ASCII, "13": "shift_jis", "100": "latin_1", "101": "iso8859_2", "109": "iso8859_3", "110": "iso8859_4",
    "126": "iso8859_7", "127": "iso8859_6", "138": "iso8859_8", "144": "iso8859_5", "148": "iso8859_9",
    "166": "tis_620", "203": "iso8859_15",
}  # fmt: skip

#: Defined Term -> codec. "ISO 2022 GBK" and "ISO 2022 58" are none, and written by equipment.
CODECS = {
    "": ASCII, "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk", "ISO 2022 GBK": "gbk",
    "ISO 2022 IR 87": "iso2022_jp", "ISO 2022 IR 159": "iso2022_jp_2", "ISO 2022 IR 149": "euc_kr",
    "ISO 2022 IR 58": "gb2312", "ISO 2022 58": "gb2312",
}  # fmt: skip
for _number, _codec in _SINGLE_BYTE.items():
    CODECS[f"ISO_IR {_number}"] = CODECS[f"ISO 2022 IR {_number}"] = _codec

#: Escape sequence -> codec of what follows. Behind the one to ASCII, bytes with the high bit are taken as Latin 1.
ESCAPES = {
    b"\x1b(B": "iso8859", b"\x1b-A": "latin_1", b"\x1b)I": "shift_jis", b"\x1b(J": "shift_jis",
    b"\x1b$B": "iso2022_jp", b"\x1b$(D": "iso2022_jp_2", b"\x1b$)C": "euc_kr", b"\x1b$)A": "gb2312",
    b"\x1b-B": "iso8859_2", b"\x1b-C": "iso8859_3", b"\x1b-D": "iso8859_4", b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6", b"\x1b-H": "iso8859_8", b"\x1b-L": "iso8859_5", b"\x1b-M": "iso8859_9",
    b"\x1b-T": "tis_620", b"\x1b-b": "iso8859_15",
}  # fmt: skip
