"""`LoggingService`: the service as an application embeds it, or as `process.run` serves it over gRPC."""

from typing import TYPE_CHECKING

from emitd_server.dispatch.dispatcher import Dispatcher

if TYPE_CHECKING:
    from emitd_server.in_process.client import InProcessClient


class LoggingService(Dispatcher):
    """A dispatcher that also gives clients to the application in its process. Instantiated once."""

    def client(self, source: str = "") -> "InProcessClient":
        """Return a logger for this process; `source` is the name of the application.

        It works from the start of the service to its end, and costs little: make as many as you like. What it was
        given is sent before the service stops.
        """
        # Loaded here: it loads the stubs and with them grpc, which a program that only dispatches does not need.
        from emitd_server.in_process.client import InProcessClient

        return InProcessClient(self, source=source)
