"""Signed notes (C2SP signed-note): a text, a blank line, and signature lines, with Ed25519 keys.

    example.com/log
    42
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/log Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=

A public key is written as a vkey, `NAME+HHHHHHHH+BASE64`: its name, its id in hexadecimal, and a byte for the kind of
signature (1) with the key itself.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: The kind of signature: Ed25519 over the text.
ED25519 = b"\x01"
KEY_BYTES = 32
#: A signature with its key's id, in base64.
SIGNATURE_LENGTH = 92
#: The specification asks for at least 16.
MAX_SIGNATURES = 100
MAX_NOTE_BYTES = 1024 * 1024
_SIGNATURE = re.compile(r"— (\S+) (\S+)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class NoteInvalid(ValueError):
    """A note or a key is malformed, or a signature of a known key is wrong. The message says which."""


class UnknownKey(NoteInvalid):
    """A note has no signature of a known key: nothing can be said of it."""


class Verifier:
    """A public key under its name."""

    def __init__(self, name: str, public_key: bytes) -> None:
        """Raises NoteInvalid for a name that is empty or has spaces or a plus sign, or a key of another length."""
        if not is_key_name(name):
            raise NoteInvalid(f"the key name {name!r} is empty, or has a space or a plus sign")
        if len(public_key) != KEY_BYTES:
            raise NoteInvalid(f"the public key has {len(public_key)} bytes, not {KEY_BYTES}")
        self.name = name
        self.public_key = public_key
        #: Four bytes that tell it from other keys of this name.
        self.key_id = sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]

    @classmethod
    def from_vkey(cls, vkey: str) -> "Verifier":
        """Read a vkey. Raises NoteInvalid."""
        name, _, rest = vkey.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        key = decode_base64(encoded)
        if key[:1] != ED25519 or len(key) != 1 + KEY_BYTES:
            raise NoteInvalid(
                f"'{vkey.strip()[:100]}' is not the vkey of an Ed25519 key: NAME+HHHHHHHH+BASE64"
            )
        verifier = cls(name, key[1:])
        if verifier.key_id.hex() != key_id.lower():
            raise NoteInvalid(
                f"the vkey of '{name}' is damaged: its id is {key_id}, not {verifier.key_id.hex()}"
            )
        return verifier

    @property
    def short_name(self) -> str:
        """The key's name and id, `NAME+HHHHHHHH`."""
        return f"{self.name}+{self.key_id.hex()}"

    @property
    def vkey(self) -> str:
        """The key as a vkey."""
        return f"{self.short_name}+{b64encode(ED25519 + self.public_key).decode()}"

    def verifies(self, text: bytes, signature: bytes) -> bool:
        """Return whether `signature` is this key's over `text`."""
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.public_key)


class Signer:
    """A private key under its name."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        """Raises NoteInvalid for a name that will not do."""
        self._private_key = private_key
        self.verifier = Verifier(name, private_key.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """Return the note of a text, which must end with a newline."""
        signature = b64encode(self.verifier.key_id + self._private_key.sign(text.encode())).decode()
        return f"{text}\n— {self.verifier.name} {signature}\n".encode()


class NoteSignature(msgspec.Struct, frozen=True):
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A note as it is written; nothing is verified yet."""

    #: With its last newline, as it was signed.
    text: str
    signatures: Sequence[NoteSignature]

    @classmethod
    def parse(cls, data: bytes) -> "Note":
        """Read a note. Raises NoteInvalid."""
        if len(data) > MAX_NOTE_BYTES:
            raise NoteInvalid(f"the note has {len(data)} bytes, more than {MAX_NOTE_BYTES}")
        try:
            decoded = data.decode()
        except UnicodeDecodeError:
            raise NoteInvalid("the note is not UTF-8") from None
        if _CONTROL.search(decoded):
            raise NoteInvalid("the note has control characters")
        text, blank, rest = decoded.rpartition("\n\n")
        if not blank or not rest.endswith("\n"):
            raise NoteInvalid("the note has no signature lines")
        lines = rest[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise NoteInvalid(f"the note has {len(lines)} signatures, more than {MAX_SIGNATURES}")
        return cls(f"{text}\n", [_read_signature(line) for line in lines])

    def written(self) -> bytes:
        """Return the note as it is written; that a signature fits does not mean that it is spelt so."""
        signed = [(line.name, b64encode(line.key_id + line.signature).decode()) for line in self.signatures]
        return "".join([self.text, "\n", *(f"— {name} {text}\n" for name, text in signed)]).encode()

    def verify(self, verifiers: Iterable[Verifier]) -> Sequence[Verifier]:
        """Return the keys among `verifiers` that signed the note: one or more.

        Raises UnknownKey if none of them did, NoteInvalid if a signature under one of them is wrong.
        """
        known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
        signed: list[Verifier] = []
        for line in self.signatures:
            verifier = known.get((line.name, line.key_id))
            if verifier is None:
                continue
            if not verifier.verifies(self.text.encode(), line.signature):
                raise NoteInvalid(f"the signature of {line.name}+{line.key_id.hex()} is wrong")
            signed.append(verifier)
        if not signed:
            names = ", ".join(f"{line.name}+{line.key_id.hex()}" for line in self.signatures)
            raise UnknownKey(f"the note is signed by {names}, and by no key that is known here")
        return signed


def decode_base64(text: str) -> bytes:
    """Return what a text in base64 stands for; empty if it is none."""
    try:
        return b64decode(text, validate=True)
    except ValueError:  # or not even ASCII
        return b""


def is_key_name(name: str) -> bool:
    """Return whether a key, and so a log, may bear this name: not empty, no spaces, no plus sign, printable."""
    return bool(name) and name.isprintable() and not re.search(r"[\s+]", name)


def _read_signature(line: str) -> NoteSignature:
    match = _SIGNATURE.fullmatch(line)
    if match is None or not is_key_name(match[1]):
        raise NoteInvalid(f"the note has a malformed signature line: {line[:100]!r}")
    decoded = decode_base64(match[2])
    if len(decoded) < 5:
        raise NoteInvalid(f"the note has a malformed signature line: {line[:100]!r}")
    return NoteSignature(match[1], decoded[:4], decoded[4:])
