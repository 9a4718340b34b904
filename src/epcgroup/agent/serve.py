"""GET /metrics over HTTP, a thread a request: plain text, whatever format the scraper prefers.

Nothing else is served and nothing is written: any other path is 404. A client that is slow or goes away costs its
thread at most TIMEOUT seconds.
"""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from epcgroup.errors import InputError

TIMEOUT = 10


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT
    page: Callable[[], bytes]
    content_type: str

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        body = type(self).page()
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A scrape is no line of the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to talk about."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(address: tuple[str, int], page: Callable[[], bytes], content_type: str) -> ThreadingHTTPServer:
    """Serve `page` from now on, in the background, until `shutdown` and `server_close`; port 0 takes a free one."""
    handler = type("Handler", (_Handler,), {"page": staticmethod(page), "content_type": content_type})
    try:
        server = (_Server6 if ":" in address[0] else _Server)(address, handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {address[0]}:{address[1]} ({getattr(error, 'strerror', None) or error})", key="listen"
        ) from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
