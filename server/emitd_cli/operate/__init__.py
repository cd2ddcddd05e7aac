"""The commands of operators and of handlers' authors: serve, check-config, handlers, new-handler."""
