"""`Edge`: what every call of one listener passes first: who makes it, and whether a grant lets it."""

from contextlib import suppress
from typing import Any

import grpc

from emitd_handlers.scope import ANYONE, Caller
from emitd_server.access.authenticator import Authenticate
from emitd_server.access.grants import Grants
from emitd_server.access.limits import CallerLimits
from emitd_server.access.trail import AccessTrail, address_of
from emitd_server.errors import Unauthenticated
from emitd_server.rpc.intake import Intake


class Edge:
    """One for each listener."""

    def __init__(
        self,
        intake: Intake,
        authenticate: Authenticate,
        grants: Grants,
        limits: CallerLimits,
        trail: AccessTrail,
        *,
        keeps_address: bool = False,
    ) -> None:
        """`keeps_address`: records keep the address of the other end of their connection."""
        self.intake = intake
        self.limits = limits
        self._trail = trail
        self._keeps_address = keeps_address
        self._authenticate = authenticate
        self._grants = grants

    def refuse_unknown(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Raise Unauthenticated unless it is known who calls a method that is for everyone, such as that of health."""
        self._authenticate(context)

    def caller(self, context: "grpc.aio.ServicerContext[Any, Any]", method: str) -> Caller:
        """Return who calls a method, such as `emitd.v1.LogService/Emit`, and what for.

        Raises Unauthenticated and PermissionDenied.
        """
        principal = self._authenticate(context)
        if principal is ANYONE.principal:
            return ANYONE
        scope = self._grants.scope(principal, method)
        return Caller(principal, scope, address_of(context.peer()), self._keeps_address)

    def note_refusal(self, context: "grpc.aio.ServicerContext[Any, Any]", method: str, code: str) -> None:
        """Write into the trail, in time, that a call was refused for want of an identity or a grant."""
        name = ""
        with suppress(Unauthenticated):
            if code != "UNAUTHENTICATED":  # a flood is looked at once
                name = self._authenticate(context).name
        self._trail.refused(name, address_of(context.peer()), method, code)
