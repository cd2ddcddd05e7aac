"""`server.listen` as it is read: one address, or a list of addresses and entries; and which of them are too open."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from emitd_handlers.text.address import UNIX, ServerAddress, ip_of, read_server_address
from emitd_server.config.settings_reader import SettingsReader
from emitd_server.config.yaml_document import Value
from emitd_server.settings import Identity, ListenEntry

ADDRESS_EXPECTED = "HOST:PORT, [IPV6]:PORT (ports 0 to 65535) or unix:PATH"
_LIST_EXPECTED = f"{ADDRESS_EXPECTED}; or a list of such addresses and of entries with the key 'address'"
#: What to write instead of a listener that is too open.
GUARDED_EXPECTED = (
    "this entry under server.listen: {address: ADDRESS, tls: {cert_file: FILE, key_file: FILE}, identity: token}; "
    "or, for everyone who can reach it, {address: ADDRESS, insecure: true}"
)


def exposure(entry: ListenEntry, hosts: Iterable[str]) -> str:
    """Return what a listener at these addresses of machines should not be without; empty: it may be as it is.

    `insecure` does not count: it is the operator's answer to this.
    """
    ips = [ip_of(host) for host in hosts]
    if entry.is_guarded or all(ip is not None and ip.is_loopback for ip in ips):
        return ""
    lacks = ["no TLS"] if entry.tls is None else []
    if entry.identity is Identity.NONE:
        lacks.append("no identity")
    return f"is beyond loopback and has {' and '.join(lacks)}"


def address_problem(entry: ListenEntry) -> tuple[str, str]:
    """Return how an address is wrong or too open, and what is expected; empty texts: it is neither.

    What the addresses of a name are is known only when the service starts.
    """
    try:
        host = read_server_address(entry.address, lowest_port=0).host
    except ValueError as error:
        return str(error), ADDRESS_EXPECTED
    why = "" if entry.insecure or ip_of(host) is None else exposure(entry, [host])
    return why, GUARDED_EXPECTED if why else ""


def at_home(address: str, base_dir: Path) -> str:
    """Return an address whose socket, if it is one, has an absolute path, or one relative to the working directory."""
    if not address.startswith(UNIX) or address.startswith(f"{UNIX}/"):
        return address
    return f"{UNIX}{base_dir / os.path.expanduser(address.removeprefix(UNIX))}"


def read_listen(reader: SettingsReader, value: Value, base_dir: Path) -> str | tuple[ListenEntry, ...] | None:
    """Return what the key says, or None; every problem is noted."""
    path = "server.listen"
    if not isinstance(value.content, list):
        entry = _plain(reader, value, path, base_dir, _LIST_EXPECTED)
        return None if entry is None else entry.address
    if not value.content:
        reader.add(value.line, path, "is empty", "at least one address")
    entries: list[ListenEntry] = []
    lines: dict[ServerAddress, int] = {}
    for index, item in enumerate(value.content):
        inner = f"{path}[{index}]"
        is_entry = isinstance(item.content, dict)
        entry = (_entry if is_entry else _plain)(reader, item, inner, base_dir)
        if entry is None:
            continue
        entries.append(entry)
        address = read_server_address(entry.address, lowest_port=0)
        address = address._replace(host=address.host.lower())
        if address in lines and (address.port or address.path):
            found = f"the same address stands in line {lines[address]}"
            reader.add(item.line, f"{inner}.address" if is_entry else inner, found)
        lines.setdefault(address, item.line)
    return tuple(entries)


def _entry(reader: SettingsReader, value: Value, path: str, base_dir: Path) -> ListenEntry | None:
    address = value.content.get("address")
    entry = reader.read(ListenEntry, value, path)
    if address is None or not isinstance(address.content, str):
        return None
    # An address is checked also if another key of its entry is wrong.
    checked = entry or ListenEntry(address=address.content, health_only=True)
    if not _is_good(reader, checked, address, f"{path}.address") or entry is None:
        return None
    return msgspec.structs.replace(entry, address=at_home(entry.address, base_dir))


def _plain(
    reader: SettingsReader,
    value: Value,
    path: str,
    base_dir: Path,
    expected: str = f"{ADDRESS_EXPECTED}, or an entry with the key 'address'",
) -> ListenEntry | None:
    if not reader.is_a(str, value, path, expected):
        return None
    entry = ListenEntry(address=value.content)
    return (
        ListenEntry(address=at_home(value.content, base_dir))
        if _is_good(reader, entry, value, path)
        else None
    )


def _is_good(reader: SettingsReader, entry: ListenEntry, address: Value, path: str) -> bool:
    why, expected = address_problem(entry)
    if why:
        shows_no_text = not address.variables or expected == GUARDED_EXPECTED
        found = f"found {address.shown()}" + (f", which {why}" if shows_no_text else "")
        reader.add(address.line, path, found, expected)
    return not why
