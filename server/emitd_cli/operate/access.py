"""`emitd access explain`: which grant lets a principal do something, or what is missing."""

import argparse
import json
from collections.abc import Sequence

from msgspec.structs import asdict

from emitd_cli.command_line.parser import not_one_of
from emitd_cli.errors import ExitCode, Misuse
from emitd_cli.operate.config import config_file
from emitd_cli.operate.setting_text import plain
from emitd_cli.terminal.output import print_outcome, tell
from emitd_handlers.principal import Principal
from emitd_handlers.scope import Level
from emitd_server.access.grants import ROLES, Grants, problem_of
from emitd_server.config.loader import load_config
from emitd_server.errors import ConfigError, PermissionDenied
from emitd_server.settings import GrantSettings


def run_explain(options: argparse.Namespace) -> int:
    """Print the grants that decide, each of which is enough, or what is missing; return 0 if it is allowed, else 1."""
    methods = {form: name for name in ROLES for form in (name, name.partition("v1.")[2], name.split("/")[1])}
    method = methods.get(options.method)
    if method is None:
        raise Misuse(f"METHOD: {not_one_of(options.method, list(methods)[2::3])}", field="METHOD")
    level = (
        options.level.upper() or (options.event_name and "AUDIT") or (options.job_type and "JOB_STATUS") or ""
    )
    if level not in Level.__members__ and (level or options.source):
        raise Misuse(f"--level: {not_one_of(level, Level.__members__)}", field="--level")
    try:
        principal = Principal(options.principal, "token", tuple(options.group))
        grants = load_config(config_file(options)).server.access.grants
    except ValueError as error:
        raise Misuse(f"PRINCIPAL, --group: {error}", field="PRINCIPAL") from None
    except ConfigError as error:
        for each in error.problems:
            tell(f"configuration: {each}", code="BAD_CONFIGURATION")
        return ExitCode.BAD_CONFIGURATION

    def problem(some: Sequence[GrantSettings]) -> str:
        try:
            scope = Grants(some).scope(principal, method)
        except PermissionDenied as error:
            return str(error)
        record = options.source or "", options.event_name or options.job_type
        found = problem_of(scope, Level[level], *record, sent="Emit" in method) if level else ()
        return ": ".join(filter(None, found))

    deciding = {
        f"server.access.grants[{place}]": {name: plain(value) for name, value in asdict(grant).items()}
        for place, grant in enumerate(grants)
        if not problem([grant])
    }
    reason = "" if deciding else problem(grants)
    lines = [f"{place} allows it: {json.dumps(fields)}" for place, fields in deciding.items()]
    answer = {"allowed": not reason, "method": method, "grants": deciding, "reason": reason}
    print_outcome(answer, "\n".join(lines) or f"denied: {reason}")
    return ExitCode.BAD if reason else ExitCode.GOOD
