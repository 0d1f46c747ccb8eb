"""A real S3 server for tests: moto behind a switch that makes it fail as S3 does."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.session import Session
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Fault = Callable[[str, str], "tuple[str, str] | None"]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


class S3:
    """The server. ``fault(method, path)`` is asked before each request: it may wait, and return the HTTP status and S3
    error code to answer with."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.fault: Fault | None = None
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def make_bucket(self, name: str) -> str:
        Session().create_client("s3", endpoint_url=self.url).create_bucket(Bucket=name)
        return name

    def empty(self, name: str) -> None:
        """Delete all objects of a bucket."""
        client = Session().create_client("s3", endpoint_url=self.url)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for found in page.get("Contents", []):
                client.delete_object(Bucket=name, Key=found["Key"])

    @contextmanager
    def failing(self, status: str, code: str, where: str = "", times: float = float("inf")) -> Iterator[list[str]]:
        """Answer requests whose "METHOD /path" matches ``where`` so, for the first ``times`` of them; yields those."""
        failed: list[str] = []

        def fault(method: str, path: str) -> tuple[str, str] | None:
            if len(failed) >= times or not re.search(where, f"{method} {path}"):
                return None
            failed.append(f"{method} {path}")
            return status, code

        self.fault = fault
        try:
            yield failed
        finally:
            self.fault = None

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        answer = self.fault(environ["REQUEST_METHOD"], environ["PATH_INFO"]) if self.fault else None
        if answer is None:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = answer
        start_response(status, [("Content-Type", "application/xml")])
        body = f"<Error><Code>{code}</Code><Message>{code} by test</Message></Error>"
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]
