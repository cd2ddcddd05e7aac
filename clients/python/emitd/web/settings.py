"""`WebSettings`: what can be set of a web application's use of emitd, with its default."""

from dataclasses import dataclass, fields

__all__ = ["WebSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSettings:
    """The limits and names. Raises ValueError naming the one that is wrong."""

    #: The header in which the proxies say where a request came from. `Forwarded` is read by RFC 7239; any other as
    #: addresses with commas. Only this one is read: senders can forge those that the proxies leave alone.
    forwarded_header: str = "X-Forwarded-For"
    #: How many proxies a request is followed back through at most.
    max_proxies: int = 32
    #: The header of a request's id, in requests from trusted proxies and in all answers.
    request_id_header: str = "X-Request-ID"
    #: A longer id is not taken over.
    max_request_id_characters: int = 128
    #: When to come back after a 503.
    retry_after_seconds: int = 1
    #: When a browser comes back whose event stream broke.
    stream_retry_ms: int = 2_000
    #: A stream without news has a sign of life so often; proxies close those that are silent.
    stream_heartbeat_seconds: float = 15.0
    #: How long a stream may take for its last event when the application stops.
    stream_end_seconds: float = 1.0
    #: How long `on_stop` may take. With `stream_end_seconds` twice it should fit into the server's own patience.
    on_stop_seconds: float = 3.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                if not value.isascii() or not value.replace("-", "").isalnum():
                    raise ValueError(f"{field.name}: {value!r} is not the name of a header")
            elif value <= 0:
                raise ValueError(f"{field.name}: {value!r} is not above 0")
