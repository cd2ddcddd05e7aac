"""`Redactor`: replaces the values of chosen keys in the JSON that senders give, before any handler sees it."""

from collections.abc import Sequence

import msgspec

from emitd_handlers.text.patterns import matches_any

#: What stands in place of a value.
REDACTED = msgspec.Raw(b'"[redacted]"')
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Redactor:
    """Redacts the members whose key, or whose path from `attributes` or `details` on, matches one of `patterns`.

    Upper and lower case are the same. A path joins keys by dots and passes through arrays: `details.card.number`.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [pattern.casefold() for pattern in patterns]
        #: How many values were replaced.
        self.count = 0

    def redact(self, root: str, text: str) -> str:
        """Return a JSON object's text; all that is not replaced stays as it is spelt. `root` begins its paths."""
        before = self.count
        redacted = self._object(msgspec.Raw(text.encode()), root)
        return text if self.count == before else bytes(redacted).decode()

    def _object(self, raw: msgspec.Raw, path: str) -> msgspec.Raw:
        members = _decode_object(raw)
        for key, value in members.items():
            name = key.casefold()
            inner = f"{path}.{name}"
            if matches_any(self._patterns, name) or matches_any(self._patterns, inner):
                members[key] = REDACTED
                self.count += 1
            else:
                members[key] = self._value(value, inner)
        return msgspec.Raw(_encode(members))

    def _value(self, raw: msgspec.Raw, path: str) -> msgspec.Raw:
        kind = bytes(memoryview(raw)[:1])
        if kind == b"{":
            return self._object(raw, path)
        if kind == b"[":
            return msgspec.Raw(_encode([self._value(item, path) for item in _decode_array(raw)]))
        return raw
