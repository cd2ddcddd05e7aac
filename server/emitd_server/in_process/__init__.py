"""The service used by the process that it runs in, without gRPC."""
