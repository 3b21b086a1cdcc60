"""Python imports this at its start, where this folder is in PYTHONPATH: then the process has the clock of a `SetClock`.

Monotonic time goes on as it does. (libfaketime cannot be used for a Python process: each timed wait of its threads for
the interpreter's lock ends at once, so that they spin, and time.sleep fails.)
"""

import mmap
import os
import struct
import time

_real, _gmtime, _localtime, _strftime = time.time, time.gmtime, time.localtime, time.strftime

with open(os.environ["TEST_CLOCK"], "rb") as _file:
    _ahead = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)


def _now():
    return _real() + struct.unpack("<d", _ahead)[0]


time.time = _now
time.time_ns = lambda: int(_now() * 1e9)
time.gmtime = lambda seconds=None: _gmtime(_now() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(_now() if seconds is None else seconds)
time.strftime = lambda words, when=None: _strftime(words, _localtime(_now()) if when is None else when)
