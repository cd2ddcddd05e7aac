"""The files of an audit log: the lines, and beside them what proves them.

audit.json.log               the lines
audit.json.log.log_id        the log's name, where the configuration gives none
audit.json.log.hashes        the stored hashes of the lines' tree, 32 bytes each (see `tlog.merkle`)
audit.json.log.checkpoints   the signed checkpoints, oldest first (see `checkpoint_file`)
audit.json.log.key           the private key that signs them; PEM, mode 0600
audit.json.log.vkey          the public keys, a vkey a line; a key is listed before it is used
audit.json.log.index         where lines begin (see `line_index`); made anew where it is missing
"""

from pathlib import Path

import msgspec

__all__ = ["AuditPaths"]


class AuditPaths(msgspec.Struct, frozen=True):
    """The paths of one log's files."""

    lines: Path
    log_id: Path
    hashes: Path
    checkpoints: Path
    key: Path
    vkey: Path
    index: Path

    @classmethod
    def of(cls, lines: Path) -> "AuditPaths":
        """Return the paths of the log whose lines are in the file `lines`."""
        kinds = cls.__struct_fields__[1:]
        return cls(lines, *(lines.with_name(f"{lines.name}.{kind}") for kind in kinds))
