"""Python imports this module at its start, where PYTHONPATH names this directory: the wall clock can then be stepped.

The file that ``CLOCK_STEP`` names holds seconds that are added to the clock. libfaketime does not serve: it breaks
``time.sleep`` of Python 3.11 and later (``clock_nanosleep`` with an absolute time of the monotonic clock).
"""

import os
import pathlib
import time

_file, _time, _time_ns = pathlib.Path(os.environ["CLOCK_STEP"]), time.time, time.time_ns


def _step() -> float:
    try:
        return float(_file.read_text() or 0)
    except OSError:
        return 0.0


time.time = lambda: _time() + _step()
time.time_ns = lambda: _time_ns() + int(_step() * 1e9)
