"""The commands `emitd audit ...`."""
