"""Counts and latencies in the text format of Prometheus, into a file or over HTTP.

Reference: Prometheus documentation, "Exposition formats", text-based format 0.0.4.
"""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.answers import Wanted
from runtime.files import write_atomic
from runtime.measuring.power import readings
from runtime.watch import Result
from targets.errors import EdgepressError, InputError

#: Upper ends of the latency histogram, in seconds.
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PERIOD = 5.0  # seconds between two writings of the file
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: name -> value, for numbers that others keep
Numbers = Callable[[], dict[str, float]]


class Metrics:
    """Counts every answer. `others`: more numbers, each a gauge of that name."""

    def __init__(self, where: str, others: Sequence[Numbers] = ()) -> None:
        """`where`: a file, `:PORT` on this machine alone, or `HOST:PORT`. Raises InputError for what is none."""
        self._others, self._lock = others, threading.Lock()
        self._answered, self._failed, self._seconds = 0, 0, 0.0
        self._buckets = [0] * len(BUCKETS)
        self._server: http.server.ThreadingHTTPServer | None = None
        self._file, self._written = None if _port(where) is not None else Path(where), 0.0
        if self._file is None:
            self._server = _serve(where, self)
        else:
            write_atomic(self._file, self.text().encode())

    def after(
        self, inputs: Sequence[Any], results: Sequence[Result | EdgepressError], ms: float, wanted: Wanted
    ) -> None:
        """See `Observer`."""
        failed = sum(isinstance(one, EdgepressError) for one in results)
        seconds = ms / 1e3
        with self._lock:
            self._failed += failed
            self._answered += len(results) - failed
            self._seconds += seconds * len(results)
            for at, most in enumerate(BUCKETS):
                self._buckets[at] += len(results) if seconds <= most else 0
        if self._file is not None and time.monotonic() - self._written > PERIOD:
            self._written = time.monotonic()
            write_atomic(self._file, self.text().encode())

    def finish(self) -> None:
        """Write the file a last time, or stop to answer."""
        if self._file is not None:
            write_atomic(self._file, self.text().encode())
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int | None:
        """Where it answers, if it does."""
        return self._server.server_address[1] if self._server is not None else None

    def text(self) -> str:
        """All numbers as they are now."""
        with self._lock:
            total = self._answered + self._failed
            lines = [
                "# TYPE edgepress_inputs_total counter",
                f'edgepress_inputs_total{{result="answered"}} {self._answered}',
                f'edgepress_inputs_total{{result="failed"}} {self._failed}',
                "# TYPE edgepress_latency_seconds histogram",
                *(
                    f'edgepress_latency_seconds_bucket{{le="{most:g}"}} {count}'
                    for most, count in zip(BUCKETS, self._buckets, strict=True)
                ),
                f'edgepress_latency_seconds_bucket{{le="+Inf"}} {total}',
                f"edgepress_latency_seconds_sum {self._seconds:.9g}",
                f"edgepress_latency_seconds_count {total}",
            ]
        for numbers in self._others:
            for name, value in numbers().items():
                lines += [f"# TYPE edgepress_{name} gauge", f"edgepress_{name} {value:.9g}"]
        temperatures = readings().get("temperature_c")
        if isinstance(temperatures, dict):
            lines.append("# TYPE edgepress_temperature_celsius gauge")
            lines += [
                f'edgepress_temperature_celsius{{zone="{_escaped(zone)}"}} {degrees:g}'
                for zone, degrees in temperatures.items()
            ]
        return "\n".join(lines) + "\n"


def _port(where: str) -> int | None:
    """The port of `:PORT` or `HOST:PORT`; None for a file."""
    host, colon, port = where.rpartition(":")
    return int(port) if colon and port.isdigit() and "/" not in host else None


def _serve(where: str, metrics: Metrics) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.split("?")[0] in ("/", "/metrics")
            body = metrics.text().encode() if known else b"only /metrics is here\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: standard error is for what goes wrong."""

    host = where.rpartition(":")[0] or "127.0.0.1"
    try:
        server = http.server.ThreadingHTTPServer((host, _port(where) or 0), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--metrics {where}: cannot listen there ({reason}); name another port") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
