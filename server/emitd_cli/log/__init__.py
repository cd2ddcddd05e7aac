"""The commands `emitd log ...`."""
