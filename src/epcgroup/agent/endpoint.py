"""HTTP to the API server and to kubelet: one request, one answer, and every way it fails as one InputError line.

Python's own http.client and ssl: the official client alone takes as much memory as the agent (docs/decisions/0015). The
token and the CA are read from their files at every request, because kubelet renews them there. A token goes out over
https only. Redirects are not followed.
"""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from epcgroup import __version__
from epcgroup.errors import InputError
from epcgroup.units import quoted

PATIENCE = 10.0  # seconds for a connection, and between two bytes of an answer
MAX_ANSWER = 64 << 20
MAX_REFUSAL = 1 << 16  # of its text we say one line
JSON, JSON_PATCH, MERGE_PATCH = "application/json", "application/json-patch+json", "application/merge-patch+json"


class Refused(InputError):
    """The server's own answer, a status that is not 2xx."""

    def __init__(self, status: int, message: str, where: str, wait: float = 0.0) -> None:
        super().__init__(f"{status} {message}", where=where)
        self.status = status
        self.wait = wait  # seconds that the server asks us to wait


@dataclass(frozen=True)
class Endpoint:
    """`url` is checked (`checked_url`) and may have a path that goes before all others."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None  # None: the system's
    insecure: bool = False  # whoever answers is believed

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> bytes:
        """The answer whole; InputError, Refused."""
        with self.answer(method, path, query=query, body=body, content_type=content_type) as answer:
            data = answer.read(MAX_ANSWER + 1)
            if answer.length and len(data) <= MAX_ANSWER:
                raise InputError("the answer ends too early", where=f"{method} {self.url}{path}")
        if len(data) > MAX_ANSWER:
            raise InputError(f"the answer is larger than {MAX_ANSWER >> 20} MiB", where=f"{method} {self.url}{path}")
        return data

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        patience: float = PATIENCE,
    ) -> Iterator[http.client.HTTPResponse]:
        """A 2xx answer to be read within the block; what goes wrong while it is read is an InputError too."""
        where = f"{method} {self.url}{path}"
        headers = {"Accept": JSON, "User-Agent": f"epcgroup/{__version__}", **self._authorization()}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        connection = self._connection(patience)
        target = urlsplit(self.url).path + path + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            if not 200 <= answer.status < 300:
                raise _refusal(answer, where)
            yield answer
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise InputError(_said(error), where=where) from None
        finally:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        try:
            token = self.token_file.read_bytes().strip()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=self.token_file) from None
        if not token or not token.isascii() or not token.decode().isprintable():
            raise InputError("is no token: a line of ASCII is", where=self.token_file)
        return {"Authorization": f"Bearer {token.decode()}"}

    def _connection(self, patience: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=patience)
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # also SSLError: no certificate in it
            reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no certificates"
            raise InputError(f"cannot be read ({reason})", where=self.ca_file) from None
        # From Python 3.13 on, on by default; the CAs of many clusters lack what it asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, parts.port, timeout=patience, context=context)


def checked_url(url: str) -> str:
    """`url` without a slash at its end; InputError when it is not http(s)://HOST[:PORT][/PATH]."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket too many
        good = False
    if not good or not url.isascii() or " " in url or "@" in url or parts.query or parts.fragment:
        raise InputError(f'{quoted(url)} is not an address, as in "https://10.0.0.1:6443"')
    return url.rstrip("/")


def _refusal(answer: http.client.HTTPResponse, where: str) -> Refused:
    text = answer.read(MAX_REFUSAL).decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    message = value.get("message") if isinstance(value, dict) else text.strip()
    wait = answer.headers.get("Retry-After", "")
    seconds = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else 0.0
    said = f"{answer.reason}: {quoted(message, 200)}" if message else answer.reason
    return Refused(answer.status, said if said.isprintable() else ascii(said), where, seconds)


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed ({error.verify_message})"
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
    return text if text.isprintable() else ascii(text)
