"""`FileHandler`: log lines in a file that rotates."""

from emitd_handlers.file.handler import FileHandler, FileSettings, RotateSettings

__all__ = ["FileHandler", "FileSettings", "RotateSettings"]
