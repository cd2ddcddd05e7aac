"""`server.listen` as it is read: one address, or a list of addresses and entries; and which of them are too open."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from emitd_handlers.text.address import UNIX, ServerAddress, ip_of, read_server_address
from emitd_server.config.settings_reader import SettingsReader
from emitd_server.config.yaml_document import Value
from emitd_server.settings import Identity, ListenEntry

_EXPECTED = "HOST:PORT, [IPV6]:PORT (ports 0 to 65535) or unix:PATH"
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
    lacks = {"no TLS": entry.tls is None, "no identity": entry.identity is Identity.NONE}
    return f"is beyond loopback and has {' and '.join(text for text, is_so in lacks.items() if is_so)}"


def address_problem(entry: ListenEntry) -> tuple[str, str]:
    """Return how an address is wrong or too open, and what is expected; empty texts: it is neither.

    What a name stands for is known only when the service starts.
    """
    try:
        host = read_server_address(entry.address, lowest_port=0).host
    except ValueError as error:
        return str(error), _EXPECTED
    why = "" if entry.insecure or ip_of(host) is None else exposure(entry, [host])
    return why, GUARDED_EXPECTED if why else ""


def at_home(address: str, base_dir: Path) -> str:
    """Return an address whose socket, if it is one, is in `base_dir` unless its path is absolute."""
    if not address.startswith(UNIX) or address.startswith(f"{UNIX}/"):
        return address
    return f"{UNIX}{base_dir / os.path.expanduser(address.removeprefix(UNIX))}"


def read_listen(reader: SettingsReader, value: Value, base_dir: Path) -> str | tuple[ListenEntry, ...] | None:
    """Return what the key says, or None; every problem is noted."""
    path = "server.listen"
    if not isinstance(value.content, list):
        if not reader.is_a(str, value, path, f"{_EXPECTED}, or a list of addresses and entries"):
            return None
        entry = _checked(reader, value, path, ListenEntry(address=value.content), base_dir)
        return None if entry is None else entry.address
    if not value.content:
        reader.add(value.line, path, "is empty", "at least one address")
    entries: list[ListenEntry] = []
    lines: dict[ServerAddress, int] = {}
    for index, item in enumerate(value.content):
        entry = _item(reader, item, f"{path}[{index}]", base_dir)
        if entry is None:
            continue
        entries.append(entry)
        address = read_server_address(entry.address, lowest_port=0)
        address = address._replace(host=address.host.lower())
        if address in lines and (address.port or address.path):
            found = f"the same address stands in line {lines[address]}"
            reader.add(item.line, f"{path}[{index}]", found)
        lines.setdefault(address, item.line)
    return tuple(entries)


def _item(reader: SettingsReader, value: Value, path: str, base_dir: Path) -> ListenEntry | None:
    if isinstance(value.content, dict):
        entry = reader.read(ListenEntry, value, path)
        return entry and _checked(reader, value.content["address"], f"{path}.address", entry, base_dir)
    if not reader.is_a(str, value, path, f"{_EXPECTED}, or an entry with the key 'address'"):
        return None
    return _checked(reader, value, path, ListenEntry(address=value.content), base_dir)


def _checked(
    reader: SettingsReader, address: Value, path: str, entry: ListenEntry, base_dir: Path
) -> ListenEntry | None:
    why, expected = address_problem(entry)
    if not why:
        return msgspec.structs.replace(entry, address=at_home(entry.address, base_dir))
    # How an address is wrong may show a part of it.
    is_secret = address.variables and expected is not GUARDED_EXPECTED
    reader.add(
        address.line, path, f"found {address.shown()}" + ("" if is_secret else f", which {why}"), expected
    )
    return None
