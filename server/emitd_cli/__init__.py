"""The command `emitd`. Nothing imports this package, and it may import all the others."""
