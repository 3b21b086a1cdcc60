"""Names of character sets, as HL7 table 0211, DICOM and people write them."""

from __future__ import annotations

import re

_UTF8, _LATIN1 = "utf-8", "latin-1"

#: What table 0211 and people write, as `_plain` has it -> codec.
_CODECS = {
    "ASCII": "ascii", "ISOIR6": "ascii", "88591": _LATIN1, "ISO88591": _LATIN1, "LATIN1": _LATIN1, "ISOIR100": _LATIN1,
    "UNICODEUTF8": _UTF8, "UTF8": _UTF8, "UNICODE": _UTF8, "ISOIR192": _UTF8,
    "ISOIR14": "shift_jis", "ISOIR13": "shift_jis", "ISOIR87": "iso2022_jp_2", "ISOIR159": "iso2022_jp_2",
    "ISO2022JP": "iso2022_jp_2", "SHIFTJIS": "cp932", "SJIS": "cp932", "MS932": "cp932",
    "GB180302000": "gb18030", "GB18030": "gb18030", "GBK": "gb18030", "GB2312": "gb18030",
    "KSX1001": "cp949", "EUCKR": "cp949", "BIG5": "big5", "CNS116431992": "euc_tw",
    "WINDOWS1252": "cp1252", "CP1252": "cp1252", "WINDOWS1250": "cp1250", "WINDOWS1251": "cp1251",
}  # fmt: skip
_CODECS |= {f"{prefix}8859{part}": f"iso8859-{part}" for prefix in ("", "ISO") for part in range(2, 17) if part != 12}
_CODECS |= {"ISOIR101": "iso8859-2", "ISOIR109": "iso8859-3", "ISOIR110": "iso8859-4", "ISOIR144": "iso8859-5"}
_CODECS |= {"ISOIR127": "iso8859-6", "ISOIR126": "iso8859-7", "ISOIR138": "iso8859-8", "ISOIR148": "iso8859-9"}


def codec_for(name: str) -> str | None:
    """Find the codec for a character set as HL7 table 0211, DICOM or people write it; None: not known."""
    found = _CODECS.get(_plain(name))
    if found == "euc_tw":
        return None  # no codec of Python
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())
