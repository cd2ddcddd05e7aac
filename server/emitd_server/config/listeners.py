"""`server.listen` as it is read: one address, or a list of addresses and entries; and which of them are too open."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from emitd_handlers.text.address import UNIX, ip_of, read_server_address
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


def read_listen(
    reader: SettingsReader, value: Value, base_dir: Path, *, has_tokens: bool
) -> str | tuple[ListenEntry, ...] | None:
    """Return what the key says, or None; every problem is noted. `has_tokens`: tokens can be known."""
    is_list = isinstance(value.content, list)
    if value.content == []:
        reader.add(value.line, "server.listen", "is empty", "at least one address")
    entries: list[ListenEntry] = []
    for index, item in enumerate(value.content if is_list else [value]):
        path, address = f"server.listen[{index}]" if is_list else "server.listen", item
        if is_list and isinstance(item.content, dict):
            entry = reader.read(ListenEntry, item, path)
            path, address = f"{path}.address", item.content.get("address", item)
        elif reader.is_a(str, item, path, f"{_EXPECTED}, or a list of addresses and entries"):
            entry = ListenEntry(address=item.content)
        else:
            entry = None
        if entry is None:
            continue
        if entry.identity is Identity.TOKEN and not has_tokens:
            found, expected = "found 'token', and no token is known", "server.access.tokens_file or jwt"
            reader.add(item.content["identity"].line, f"server.listen[{index}].identity", found, expected)
        why, expected = address_problem(entry)
        if why:  # which may show a part of the address
            is_secret = address.variables and expected is not GUARDED_EXPECTED
            found = f"found {address.shown()}" + ("" if is_secret else f", which {why}")
            reader.add(address.line, path, found, expected)
        else:
            entries.append(msgspec.structs.replace(entry, address=at_home(entry.address, base_dir)))
    if is_list:
        return tuple(entries)
    return entries[0].address if entries else None
