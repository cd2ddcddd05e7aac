"""What goes wrong with a spool: plain errors for the client itself, which turns them into its own.

SpoolError                 the spool cannot be used now: the disk, the folder, or its file
└── SpoolFull              the records would not fit into its limit
"""

__all__ = ["SpoolError", "SpoolFull"]


class SpoolError(Exception):
    """A spool cannot be made, read or written. What was to be written is not there."""


class SpoolFull(SpoolError):
    """The records would take more bytes than the spool may keep."""
