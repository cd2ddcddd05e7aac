"""Messages of the contract to records, and outcomes back to messages."""

from emitd_server.errors import RequestInvalid

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def read_page_size(size: int) -> int:
    """Return the size of a page that a request asks for. Raises RequestInvalid."""
    if size < 0:
        raise RequestInvalid("page_size", f"{size} is negative")
    return min(size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
