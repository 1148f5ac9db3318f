"""A proxy in front of the server that can misbehave.

`proxy.behave` is a function `(request, forward) -> bytes or None`: the raw answer to send, or None to close the connection
without one; `forward()` performs the request and returns a raw answer. `None` in its place forwards everything.
"""
import http.client
import socket
import socketserver
import threading
from dataclasses import dataclass


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def writes(self):
        """Is it a request of a push that changes the remote?"""
        return self.path == "/push-changes" or b"BEGIN IMMEDIATE" in self.body


def raw(status, body=b"", length=None):
    """A raw HTTP answer; `length` is what it claims to hold."""
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class Proxy:
    def __init__(self, server):
        self.server, self.behave, self.port = server, None, 0
        self.listen()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def listen(self):
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                request = _receive(self.rfile)
                forward = lambda: proxy.forward(request)
                answer = proxy.behave(request, forward) if proxy.behave else forward()
                if answer is not None:
                    self.wfile.write(answer)

        self._listener = _Listener(("127.0.0.1", self.port), Handler)
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        """Further connections are refused."""
        self._listener.shutdown()
        self._listener.server_close()

    def forward(self, request):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
        connection.request(request.method, request.path, request.body, headers)
        response = connection.getresponse()
        answer = raw(response.status, response.read())
        connection.close()
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _receive(stream):
    method, path, _ = stream.readline().decode().split(" ")
    headers = {k: v for k, v in http.client.parse_headers(stream).items()}
    length = int({k.lower(): v for k, v in headers.items()}.get("content-length", 0))
    return Request(method, path, headers, stream.read(length))


def once(behave, wanted=lambda request: request.writes):
    """Misbehaves at the first wanted request only; `.happened` tells whether it has."""

    def behaviour(request, forward):
        if not behaviour.happened and wanted(request):
            behaviour.happened = True
            return behave(request, forward)
        return forward()

    behaviour.happened = False
    return behaviour


def lose_answer(_request, forward):
    """The server executes the request; nobody hears about it."""
    forward()


def deliver_twice(_request, forward):
    """Like a network that repeats: the second answer arrives."""
    forward()
    return forward()


def deliver_again_later(_request, forward):
    """The first answer arrives, and the request comes again right after it."""
    answer = forward()
    forward()
    return answer


def cut_answer(_request, forward):
    """The second half of the answer is missing."""
    answer = forward()
    head = answer.index(b"\r\n\r\n") + 4
    return answer[: head + (len(answer) - head) // 2]


def free_port():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
