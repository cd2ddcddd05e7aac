"""`Identity`: a principal, and until when the proof of it holds."""

import math

import msgspec

from emitd_handlers.principal import Principal

#: Of a token that is neither in the file nor a JWT.
NOT_KNOWN = "the token is not known here"


class Identity(msgspec.Struct, frozen=True):
    """Who calls. A stream of the caller ends at `expires_at_unix`, in seconds since 1970; infinity: never."""

    principal: Principal
    expires_at_unix: float = math.inf
