"""An API server and a kubelet as far as the agent talks to them: HTTPS, tokens, lists in pages, watches, patches.

What they say and refuse is what the real ones do (the `kubernetes` client reads it, test_kube_fakes.py). A test decides
what happens to a connection: `cut`, `compact` (so that old places are 410 Gone), `bookmark`, `say`, `refuse`.
"""

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from epcgroup.manifest import quantity

TOKEN = "token-of-the-agent"
PATIENCE = 60  # seconds: a server whose client is gone does not wait for ever


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate of 127.0.0.1 signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code}  # fmt: skip


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.body = code, status(code, reason, message)


EXPIRED = Refusal(410, "Expired", "too old resource version: 1 (2)")
_EXPIRED_EVENT = json.dumps({"type": "ERROR", "object": EXPIRED.body}).encode() + b"\n"
Key = tuple[str, str]


@dataclass
class Answer:
    """What `refuse` makes the next request get, as it stands."""

    code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler], pem: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.context = None
        if pem is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(pem)
        self.url = f"http{'s' if pem else ''}://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(PATIENCE)
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        with request:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away, and do not believe certificates."""

    def close(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self.server_close()
            self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Any

    def log_message(self, *_: object) -> None: ...

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)),
                            **(headers or {})}.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        with self.fake.lock:
            self.fake.requests.append((self.command, unquote(parts.path)))
            planned = self.fake.planned.popleft() if self.fake.planned else None
        if planned is not None:
            self.answer(planned.code, planned.body, planned.headers)
        elif self.fake.token is not None and self.headers.get("Authorization") != f"Bearer {self.fake.token}":
            self.answer(401, json.dumps(status(401, "Unauthorized", "Unauthorized")).encode())
        else:
            try:
                self.fake.handle(self, unquote(parts.path), dict(parse_qsl(parts.query)), body)
            except Refusal as refusal:
                self.answer(refusal.code, json.dumps(refusal.body).encode())

    do_GET = do_PATCH = do_POST = handle_one


class _Fake:
    def __init__(self, pem: Path | None, token: str | None) -> None:
        self.token = token
        self.lock = threading.Condition()
        self.requests: list[tuple[str, str]] = []
        self.planned: deque[Answer] = deque()
        self.server = _Server(type("Handler", (_Handler,), {"fake": self}), pem)
        self.url = self.server.url

    def refuse(self, code: int, body: bytes = b"", times: int = 1, **headers: str) -> None:
        """What the next requests get, whatever they ask."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.lock:
            self.planned.extend(Answer(code, body, named) for _ in range(times))

    def asked(self, method: str, path: str) -> int:
        with self.lock:
            return self.requests.count((method, path))


class FakeKubelet(_Fake):
    def __init__(self, pods: Callable[[], str], pem: Path | None = None, token: str | None = TOKEN) -> None:
        self.pods = pods
        super().__init__(pem, token)

    def handle(self, handler: _Handler, path: str, query: dict[str, str], body: bytes) -> None:
        if path != "/pods":
            handler.answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
            return
        handler.answer(200, self.pods().encode())

    def close(self) -> None:
        self.server.close()


class FakeApiServer(_Fake):
    """Pods, nodes and events. `pods.put(object)` is what a controller or kubelet would do."""

    def __init__(self, pem: Path | None = None, token: str | None = TOKEN) -> None:
        self.version = 1000
        self.gone_in_stream = False  # whether 410 comes as an event of the watch, or as its status
        self.closed = False
        self.cuts = 0
        self.pods, self.nodes, self.events = Kind(self, "Pod"), Kind(self, "Node"), Kind(self, "Event")
        super().__init__(pem, token)

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.lock.notify_all()
        self.server.close()

    def cut(self) -> None:
        """Every watch loses its connection, without a word."""
        with self.lock:
            self.cuts += 1
            self.lock.notify_all()

    # ---- requests

    def handle(self, handler: _Handler, path: str, query: dict[str, str], body: bytes) -> None:
        parts = path.strip("/").split("/")
        if parts[:2] != ["api", "v1"]:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        match handler.command, parts[2:]:
            case "GET", [("pods" | "nodes") as kind]:
                self._list_or_watch(handler, getattr(self, kind), query)
            case "GET", ["nodes", name]:
                self._one(handler, self.nodes, ("", name))
            case "PATCH", ["nodes", name, "status"]:
                self._patch(handler, self.nodes, ("", name), body)
            case "POST", ["namespaces", namespace, "events"]:
                self._new_event(handler, namespace, body)
            case "GET", ["namespaces", namespace, "events", name]:
                self._one(handler, self.events, (namespace, name))
            case "PATCH", ["namespaces", namespace, "events", name]:
                self._patch(handler, self.events, (namespace, name), body)
            case _:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")

    def _list_or_watch(self, handler: _Handler, kind: "Kind", query: dict[str, str]) -> None:
        if query.get("watch") in ("1", "true", "True"):
            kind.watch(handler, query)
        else:
            handler.answer(200, json.dumps(kind.list(query)).encode())

    def _one(self, handler: _Handler, kind: "Kind", key: Key, code: int = 200) -> None:
        with self.lock:
            found = json.dumps(kind.get(key)).encode()
        handler.answer(code, found)

    def _new_event(self, handler: _Handler, namespace: str, body: bytes) -> None:
        event = json.loads(body)
        key = namespace, event["metadata"]["name"]
        if event["involvedObject"].get("namespace", "") != namespace or len(event.get("message", "")) > 1024:
            raise Refusal(422, "Invalid", f'Event "{key[1]}" is invalid')
        with self.lock:
            if key in self.events.objects:
                raise Refusal(409, "AlreadyExists", f'events "{key[1]}" already exists')
            self.events.put({**event, "metadata": {**event["metadata"], "namespace": namespace}})
        self._one(handler, self.events, key, 201)

    def _patch(self, handler: _Handler, kind: "Kind", key: Key, body: bytes) -> None:
        with self.lock:
            value = json.loads(json.dumps(kind.get(key)))
            patch = json.loads(body)
            sort = handler.headers.get("Content-Type")
            if sort == "application/json-patch+json":
                for operation in patch:
                    _apply(value, operation)
            elif sort in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
                _merge(value, patch)
            else:
                raise Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {sort}")
            for amounts in (value.get("status") or {}).get("capacity"), (value.get("status") or {}).get("allocatable"):
                for name, amount in (amounts or {}).items():
                    amounts[name] = canonical(amount)
            kind.put(value)
        self._one(handler, kind, key)


def canonical(amount: Any) -> str:
    """A quantity as the API server prints it: 94000000 is 94M."""
    try:
        number = int(quantity.parse(amount))
    except ValueError:
        raise Refusal(400, "BadRequest", "quantities must match the regular expression ...") from None
    if str(amount).endswith("i"):
        return str(amount)
    shown = ""
    for suffix in "kMGT":
        if number % 1000 or not number:
            break
        number, shown = number // 1000, suffix
    return f"{number}{shown}"


def _apply(value: Any, operation: dict[str, Any]) -> None:
    """One operation of RFC 6902 on mappings."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    for part in way:
        if not isinstance(value.get(part), dict):
            raise Refusal(422, "Invalid", "the server rejected our request due to an error in our request")
        value = value[part]
    if operation["op"] == "add":
        value[last] = operation["value"]
    elif operation["op"] == "remove" and last in value:
        del value[last]
    else:
        raise Refusal(422, "Invalid", "the server rejected our request due to an error in our request")


def _merge(value: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for key, new in patch.items():
        if isinstance(new, dict) and isinstance(value.get(key), dict):
            _merge(value[key], new)
        elif new is None:
            value.pop(key, None)
        else:
            value[key] = new


class Kind:
    """The objects of one kind, and the changes that watches are told."""

    def __init__(self, server: FakeApiServer, name: str) -> None:
        self.server, self.name = server, name
        self.objects: dict[Key, dict[str, Any]] = {}
        # resourceVersion, line, whether a watch gets it
        self.changes: list[tuple[int, bytes, Callable[[dict[str, str]], bool]]] = []
        self.oldest = 0  # the place before which changes are forgotten
        self.lists: dict[str, tuple[str, list[Any]]] = {}  # continue token -> place, what is left
        self.nr_lists = self.nr_watches = 0

    def get(self, key: Key) -> dict[str, Any]:
        if key not in self.objects:
            raise Refusal(404, "NotFound", f'{self.name.lower()}s "{key[1]}" not found')
        return self.objects[key]

    def _change(self, kind: str, value: dict[str, Any]) -> None:
        server = self.server
        server.version += 1
        value["metadata"] = {**value["metadata"], "resourceVersion": str(server.version)}
        whole = {"kind": self.name, "apiVersion": "v1", **value}
        line = json.dumps({"type": kind, "object": whole}).encode() + b"\n"
        self.changes.append((server.version, line, lambda query: _fits(whole, query)))
        server.lock.notify_all()

    def put(self, value: dict[str, Any]) -> None:
        with self.server.lock:
            key = value["metadata"].get("namespace", ""), value["metadata"]["name"]
            value = json.loads(json.dumps(value))
            self._change("MODIFIED" if key in self.objects else "ADDED", value)
            self.objects[key] = value

    def delete(self, namespace: str, name: str) -> None:
        with self.server.lock:
            self._change("DELETED", self.objects.pop((namespace, name)))

    def say(self, line: bytes) -> None:
        """Every watch gets this line, whatever it is."""
        with self.server.lock:
            self.server.version += 1
            self.changes.append((self.server.version, line, lambda query: True))
            self.server.lock.notify_all()

    def bookmark(self) -> None:
        with self.server.lock:
            place = str(self.server.version + 1)
            body = {"kind": self.name, "apiVersion": "v1", "metadata": {"resourceVersion": place}}
            self.say(json.dumps({"type": "BOOKMARK", "object": body}).encode() + b"\n")

    def compact(self) -> None:
        """All changes so far are forgotten, and the pages of lists."""
        with self.server.lock:
            self.oldest, self.changes = self.server.version, []
            self.lists.clear()

    def list(self, query: dict[str, str]) -> dict[str, Any]:
        with self.server.lock:
            self.nr_lists += 1
            token = query.get("continue")
            if token is None:
                place, left = str(self.server.version), [v for v in self.objects.values() if _fits(v, query)]
            elif token in self.lists:
                place, left = self.lists.pop(token)
            else:
                raise Refusal(410, "Expired", "The provided continue parameter is too old")
            limit = int(query.get("limit", 0)) or len(left)
            page, left = left[:limit], left[limit:]
            metadata = {"resourceVersion": place}
            if left:
                metadata["continue"] = base64.b64encode(f"{place}/{len(left)}/{self.nr_lists}".encode()).decode()
                metadata["remainingItemCount"] = len(left)  # type: ignore[assignment]
                self.lists[metadata["continue"]] = (place, left)
            return {"kind": f"{self.name}List", "apiVersion": "v1", "metadata": metadata, "items": page}

    def watch(self, handler: _Handler, query: dict[str, str]) -> None:
        server = self.server
        with server.lock:
            self.nr_watches += 1
            cuts, place = server.cuts, int(query.get("resourceVersion") or server.version)
            gone = place < self.oldest
        if gone and not server.gone_in_stream:
            raise EXPIRED
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.close_connection = True
        if gone:
            self._chunk(handler, _EXPIRED_EVENT)
            return
        while True:
            with server.lock:
                while not (server.closed or server.cuts > cuts or server.version > place):
                    server.lock.wait(PATIENCE)
                if server.closed or server.cuts > cuts:
                    return
                gone = place < self.oldest
                lines = [line for at, line, told in self.changes if at > place and told(query)]
                place = server.version
            for line in lines if not gone else [_EXPIRED_EVENT]:
                self._chunk(handler, line)
            if gone:
                return

    @staticmethod
    def _chunk(handler: _Handler, line: bytes) -> None:
        handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


def _fits(value: dict[str, Any], query: dict[str, str]) -> bool:
    """The field selector: metadata.name, spec.nodeName."""
    for pair in filter(None, query.get("fieldSelector", "").split(",")):
        way, _, wanted = pair.partition("=")
        found: Any = value
        for part in way.split("."):
            found = found.get(part, {})
        if found != wanted:
            return False
    return True
