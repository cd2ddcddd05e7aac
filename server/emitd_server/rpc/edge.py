"""`Edge`: what every call of one listener passes first: who makes it, and whether a grant lets it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from emitd_handlers.principal import Principal
from emitd_handlers.scope import ANYONE, Caller
from emitd_server.access.grants import Grants
from emitd_server.access.limits import CallerLimits
from emitd_server.rpc.intake import Intake

#: Says who makes a call, or raises Unauthenticated.
Authenticate: TypeAlias = Callable[["grpc.aio.ServicerContext[Any, Any]"], Principal]


class Edge:
    """One for each listener; `authenticate` is None for one that asks nobody for a name."""

    def __init__(
        self, intake: Intake, authenticate: Authenticate | None, grants: Grants, limits: CallerLimits
    ) -> None:
        self.intake = intake
        self.limits = limits
        self._authenticate = authenticate
        self._grants = grants

    def caller(self, context: "grpc.aio.ServicerContext[Any, Any]", method: str) -> Caller:
        """Return who calls a method, such as `emitd.v1.LogService/Emit`, and what for.

        Raises Unauthenticated and PermissionDenied.
        """
        if self._authenticate is None:
            return ANYONE
        return self._grants.caller(self._authenticate(context), method)
