"""How deep a thread is within the making of records: the text or the filter of one may itself log.

Such a record is sent too. One that comes of it in turn is counted as dropped, as `nested`: where an object's
`__repr__` logs the object twice, there would be no end.
"""

import threading

__all__ = ["MAX_NESTING", "making"]

#: A record, and one that comes of it.
MAX_NESTING = 2


class _ThisThread(threading.local):
    #: How many records are being made in this thread; set back by whoever counted one.
    depth = 0


making = _ThisThread()
