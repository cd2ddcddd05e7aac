"""`Room`: what still fits into one message. Everything that a service answers in pages or parts is cut by it."""

#: No reply is larger, and no message of a stream, unless one item alone is.
MAX_PAGE_BYTES = 2 * 1024 * 1024
#: A message of a stream ends here: a reader that takes nothing holds one of them, several times over.
MAX_PART_BYTES = 256 * 1024


class Room:
    """Room for `items` items and `size` bytes. The first item always fits."""

    def __init__(self, items: int, size: int) -> None:
        self._items = items
        self._size = size
        self._is_empty = True
        #: No more is to be put in.
        self.is_full = False

    def take(self, size: int) -> bool:
        """Take the room of the next item; return False if it does not fit, after which nothing does."""
        fits = not self.is_full and (self._is_empty or size <= self._size)
        self._items -= 1
        self._size -= size
        self._is_empty = False
        self.is_full = not fits or self._items <= 0
        return fits
