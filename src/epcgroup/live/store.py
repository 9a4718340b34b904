"""Where pages go that were written out: sealed with AES-128-GCM under a version number, as EWB and ELDU do.

One Store an enclave, with a key of its own. `sealed` is the untrusted part, page to ciphertext and tag; `_versions`
is what the version array is on SGX, kept apart and only growing. The nonce is page and version, so none repeats and
neither can be another's; the enclave's number is authenticated too. A flipped bit, another page's entry, an older
version of the same page and a missing or cut entry are all a SealError, never wrong data.
"""

import itertools
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_nonce = struct.Struct("<IQ").pack


class SealError(Exception):
    """A page of the store is not what was written out last."""


class Store:
    """The pages of one enclave that are not on the EPC."""

    def __init__(self, number: int) -> None:
        self.sealed: dict[int, bytes] = {}
        aead = AESGCM(os.urandom(16))
        self._encrypt, self._decrypt = aead.encrypt, aead.decrypt
        self._number = number.to_bytes(8, "little")
        self._versions: dict[int, int] = {}
        self._next_version = itertools.count(1).__next__

    def seal(self, page: int, data: bytes | memoryview) -> None:
        version = self._versions[page] = self._next_version()
        self.sealed[page] = self._encrypt(_nonce(page, version), data, self._number)

    def open(self, page: int) -> bytes:
        """Verify and take a page out; SealError."""
        sealed = self.sealed.pop(page, b"")
        version = self._versions.pop(page)
        try:
            return self._decrypt(_nonce(page, version), sealed, self._number)
        except InvalidTag:
            raise SealError from None
