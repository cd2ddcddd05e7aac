"""The command `emitd emit`."""
