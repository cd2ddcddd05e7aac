"""The commands `emitd job ...`."""
