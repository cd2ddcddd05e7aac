"""Page tokens: where the next page of an answer begins, and a digest of the query that it was made for. Pure."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Any

import msgspec

from emitd_handlers.errors import FieldInvalid

_encode = msgspec.msgpack.Encoder().encode


def make_token(query: object, *place: object) -> str:
    """Return the token of a page that begins at a place; `query` is all that tells the filters of two queries apart."""
    return urlsafe_b64encode(_encode((_digest(query), *place))).decode()


def read_token(token: str, query: object, kind: Any, refuse: type[FieldInvalid], foreign: str) -> list[Any]:
    """Return the place; `kind` is a tuple's: bytes, and the kinds of its members.

    Raises `refuse` for a token that was not made for this query, but for a `foreign` one.
    """
    try:
        digest, *place = msgspec.msgpack.decode(urlsafe_b64decode(token), type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise refuse("page_token", "is none that this server has made") from None
    if digest != _digest(query):
        raise refuse("page_token", f"was made for {foreign}")
    return list(place)


def _digest(query: object) -> bytes:
    return blake2b(_encode(query), digest_size=8).digest()
