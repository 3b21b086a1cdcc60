"""Copies of an object for a destination; the original never changes.

What a copy says: `corrections` and `deidentify` decide, `correct` and `editing` change single elements and copy all
other bytes, `masking` blackens areas.

How it is encoded: in another transfer syntax, without loss, where a destination refuses that of the original.
`possible` says whether there is a way, `recode.transcode` goes it, `Transcoder` does so in a worker process with
bounded memory and time, because codecs are C code that hostile input may crash or bloat.

No Dataset is built: a flat walk copies each value's bytes, rewrites headers and byte order, and replaces Pixel Data
frame by frame. Text, private and unknown elements, UIDs and lossy flags stay what they were. Sequences get undefined
length, group lengths go (PS3.5 section 7.2), elements of unknown VR become UN (section 6.2.2). Of an image that is
lossy already, the destination gets what its decoder shows; nothing is compressed with loss again.
Refused, with the reason: video, JPEG XL, false lengths, 32-bit pixels in big endian (writers disagree on the order
of their words), and whatever does not decode to the same pixels again once compressed.
"""

from edge.transform.syntaxes import COMPRESSED_FALLBACKS, FALLBACKS, Converted, possible
from edge.transform.transcoder import Transcoder

__all__ = ["COMPRESSED_FALLBACKS", "FALLBACKS", "Converted", "Transcoder", "possible"]
