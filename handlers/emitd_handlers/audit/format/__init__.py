"""The audit log's files: their names, the form of a line, of the line index and of the checkpoint file."""
