"""`emitd audit export`: the log as a folder of tiles."""

import argparse
import json
from pathlib import Path

from emitd_cli.audit.errors import files_to_errors
from emitd_cli.audit.target import find_log
from emitd_cli.errors import CommandError
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import one_line, print_result
from emitd_handlers.audit.publish.export import Export, FolderMismatch, export_log


def run(options: argparse.Namespace) -> int:
    """Write the folder, or bring it up to date; return 0. Raises CommandError if it has another log."""
    target = find_log(options)
    folder = Path(options.folder)
    with files_to_errors():
        try:
            export = export_log(target.path, folder)
        except FolderMismatch as error:
            raise CommandError(str(error), code="FOLDER_MISMATCH") from error
    print_result(_to_json(export) if options.json else _in_words(export, folder))
    return ExitCode.GOOD


def _in_words(export: Export, folder: Path) -> str:
    checkpoint = export.signed.checkpoint
    vkeys = "\n".join(verifier.vkey for verifier in export.signed.signed_by)
    return (
        f"{one_line(str(folder))}: {checkpoint.size} lines of the log {one_line(checkpoint.origin)}, "
        f"{checkpoint.size - export.old_size} of them new; wrote {export.tiles_written} tiles and "
        f"{export.bundles_written} bundles of lines. Readers check it by this key:\n{vkeys}"
    )


def _to_json(export: Export) -> str:
    checkpoint = export.signed.checkpoint
    return json.dumps(
        {
            "log_id": checkpoint.origin,
            "tree_size": checkpoint.size,
            "old_tree_size": export.old_size,
            "root": checkpoint.root.hex(),
            "tiles_written": export.tiles_written,
            "bundles_written": export.bundles_written,
            "signed_by": [verifier.vkey for verifier in export.signed.signed_by],
        }
    )
