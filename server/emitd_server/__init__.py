"""The service: configuration, dispatch to handlers, and the gRPC edge.

`emitd_server.service.LoggingService` is the heart; `emitd_server.process.run` is a server process around it.
"""
