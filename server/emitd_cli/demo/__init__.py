"""The command `emitd demo`."""
