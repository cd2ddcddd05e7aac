"""`WebhookUrl`: where a handler posts to, as an entry of `logging_config.yml` names it."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

__all__ = ["WebhookUrl"]


class WebhookUrl:
    """An `http` or `https` URL. Its `str` and `repr` show scheme, host and port only.

    Some receivers put their secret into the path, others into the query or before the host: none of it is
    shown. Immutable. A plain class and no struct, so that the loader of the configuration is asked to build it.
    """

    __slots__ = ("_origin", "_text")
    #: What stands in a message where there is none.
    expected = "a URL, such as https://HOST[:PORT]/PATH"

    def __init__(self, text: str) -> None:
        """Raise ValueError, which repeats nothing but the scheme, if `text` is no such URL."""
        if any(character.isspace() or not character.isprintable() for character in text):
            raise ValueError("a URL has neither white space nor control characters; write them as %XX")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(
                "the URL's host or port is malformed; expected https://HOST[:PORT]/PATH"
            ) from None
        if parts.scheme not in ("http", "https"):
            found = f"'{parts.scheme}' is no scheme of a webhook" if parts.scheme else "the URL has no scheme"
            raise ValueError(f"{found}; expected http://... or https://...")
        if not host:
            raise ValueError(f"the URL names no host; expected {parts.scheme}://HOST[:PORT]/PATH")
        if parts.fragment:
            raise ValueError("the URL has a fragment, which no receiver gets; remove '#' and what follows")
        shown = f"[{host}]" if ":" in host else host
        self._origin = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
        self._text = text

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the URL that stands in a configuration file; `base_dir` does not matter."""
        return cls(text)

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be shown."""
        return self._origin

    def reveal(self) -> str:
        """Return the whole URL."""
        return self._text

    def __str__(self) -> str:
        return self._origin

    def __repr__(self) -> str:
        return f"WebhookUrl('{self._origin}/***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WebhookUrl) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)
