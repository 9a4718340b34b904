"""Where pages go that were written out: sealed with AES-128-GCM under a version number, as EWB and ELDU do.

One Store an enclave, with a key of its own. `sealed` is the untrusted part, page to ciphertext and tag; `_versions`
is what the version array is on SGX, kept apart and only growing. The nonce is page and version, so none repeats;
enclave and page are authenticated too. A flipped bit, another page's entry, an older version of the same page and a
missing or cut entry are all a SealError, never wrong data.
"""

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = struct.Struct("<IQ")
_WHERE = struct.Struct("<QQ")


class SealError(Exception):
    """A page of the store is not what was written out last."""


class Store:
    """The pages of one enclave that are not on the EPC."""

    def __init__(self, number: int) -> None:
        self.sealed: dict[int, bytes] = {}
        self._number = number
        self._aead = AESGCM(os.urandom(16))
        self._versions: dict[int, int] = {}
        self._next_version = 1

    def seal(self, page: int, data: bytes | memoryview) -> None:
        version = self._next_version
        self._next_version += 1
        self._versions[page] = version
        self.sealed[page] = self._aead.encrypt(_NONCE.pack(page, version), data, _WHERE.pack(self._number, page))

    def open(self, page: int) -> bytes:
        """Verify and take a page out; SealError."""
        sealed = self.sealed.pop(page, b"")
        version = self._versions.pop(page)
        try:
            return self._aead.decrypt(_NONCE.pack(page, version), sealed, _WHERE.pack(self._number, page))
        except InvalidTag:
            raise SealError from None
