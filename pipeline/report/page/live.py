"""Serves a run's page on this machine while the run works, and follows it."""

from __future__ import annotations

import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from noisesmith.pipeline.errors import UserError, one_line, reason
from noisesmith.pipeline.report.page.collect import Collector, Page
from noisesmith.pipeline.report.page.embed import render, to_json

HOST = "127.0.0.1"
INTERVAL = 2.0  # seconds between two looks at the run
PICTURED = 64  # rows after whose pictures the page is shown again
_PATIENCE = 4  # a look that takes long is followed by a pause of so many times as long


class LiveReport:
    """The page of a run at work, served on the loopback interface only.

    Use it as a context manager; ``url`` is where it is. :meth:`follow` keeps it up to date.

    Args:
        location: how a command on the page names the run.
        port: to serve at; any free one for 0.

    Raises:
        UserError: the directory is no run, or the port cannot be used.
    """

    def __init__(self, run_dir: Path, location: str, port: int) -> None:
        self._collector = Collector(run_dir, location, embedded=False)
        self._board = _Board()
        self._closed = threading.Event()
        try:
            self._server = ThreadingHTTPServer((HOST, port), partial(_Handler, self._board))
        except OSError as error:
            raise UserError(f"--port: {port} cannot be used ({reason(error)}); give another, or none") from error
        self.url = f"http://{HOST}:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> LiveReport:
        try:
            self._look()
        except BaseException:
            self._server.server_close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def follow(self) -> None:
        """Look at the run from time to time until the server is closed."""
        pause = INTERVAL
        while not self._closed.wait(pause):
            started = time.monotonic()
            try:
                self._look()
            except UserError as error:
                # A file may be half written or just replaced: the next look decides.
                self._board.trouble = one_line(error)
            took = time.monotonic() - started
            pause = max(INTERVAL, _PATIENCE * took)

    def _look(self) -> None:
        for page in self._collector.pages(PICTURED, lambda _, __: None):
            self._board.put(page)


class _Board:
    """The latest page, between the thread that reads the run and those that answer browsers."""

    def __init__(self) -> None:
        self.trouble = ""
        self._lock = threading.Lock()
        self._version = 0
        self._page: Page | None = None
        self._places: dict[str, int] = {}
        self._json = ""

    def put(self, page: Page) -> None:
        """Show another page, unless it is the same."""
        text = to_json(page.data)
        with self._lock:
            self.trouble = ""
            if text == self._json:
                return
            self._version += 1
            self._page = page
            self._json = text
            self._places = {row["id"]: place for place, row in enumerate(page.data["rows"])}

    def html(self) -> str:
        """The page as it is now; its pictures come from :meth:`picture`."""
        with self._lock:
            page = self._page
            version = self._version
        if page is None:
            return ""
        return render(page.data["name"], {**page.data, "version": version}, (), live=True)

    def news(self, known: str) -> str | None:
        """The data as JSON, ``None`` where a browser knows this version."""
        with self._lock:
            if self._page is None or known == str(self._version):
                return None
            return to_json({**self._page.data, "version": self._version})

    def picture(self, kind: str, row_id: str) -> bytes | None:
        """The thumbnail of a row's first or kept image."""
        with self._lock:
            place = self._places.get(row_id)
            if self._page is None or place is None:
                return None
            made = self._page.pictures[place]
            return made.kept if kind == "kept" else made.first


class _Handler(BaseHTTPRequestHandler):
    """Answers a browser on this machine."""

    server_version = "noisesmith"
    sys_version = ""

    def __init__(self, board: _Board, *arguments: object) -> None:
        self._board = board
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        # Another site's page may have its own name resolved to this machine: it must not read the run.
        host = (self.headers.get("Host") or "").partition(":")[0]  # browsers leave out the port 80
        if host not in (HOST, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        url = urlsplit(self.path)
        match url.path.split("/"):
            case ["", ""]:
                self._answer(self._board.html().encode(), "text/html; charset=utf-8")
            case ["", "data"]:
                self._answer_news(parse_qs(url.query).get("known", [""])[0])
            case ["", "picture", ("first" | "kept") as kind, row_id]:
                picture = self._board.picture(kind, row_id)
                if picture is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                else:
                    self._answer(picture, "image/webp")
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing: a terminal shows where the page is, and no list of requests."""

    def _answer_news(self, known: str) -> None:
        if self._board.trouble:
            self._answer(to_json({"trouble": self._board.trouble}).encode(), "application/json")
            return
        news = self._board.news(known)
        if news is None:
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            self._answer(news.encode(), "application/json")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)
