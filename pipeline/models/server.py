"""Any server that speaks the OpenAI protocol (vLLM, SGLang): its models, and JSON over HTTP with retries."""

from __future__ import annotations

import os
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.locate import ModelSource

SERVER = "OpenAIServer"
TIMEOUT = (10.0, 120.0)  # seconds to connect, and between two bytes of the answer
BACKOFF = 0.5
CONCURRENCY = 32  # questions in flight; the server makes batches of them


class ServerError(RuntimeError):
    """The server did not answer, or its answer is no score. The message never holds the key."""


class RequestRefusedError(ServerError):
    """The server refuses the content of a request: it is too long, or a filter stops it."""


class Key:
    """Reads the key from the environment for each request, so that no object of ours holds it."""

    def __init__(self, variable: str | None) -> None:
        self._variable = variable

    @property
    def value(self) -> str:
        return os.environ.get(self._variable or "", "").strip()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.value:
            request.headers["Authorization"] = f"Bearer {self.value}"
        return request

    def redact(self, text: str) -> str:
        return text.replace(self.value, "***") if self.value else text


class Client:
    """JSON over HTTP with time limits; tries again where the server is busy, restarting or unreachable."""

    def __init__(self, url: str, key: Key, retries: int) -> None:
        self.url = url
        self._key = key
        retry = Retry(
            total=retries,
            read=min(retries, 1),
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
            backoff_factor=BACKOFF,
            backoff_jitter=BACKOFF,
            retry_after_max=60,
            raise_on_status=False,
        )
        self._session = requests.Session()
        self._session.auth = key
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=CONCURRENCY, max_retries=retry))

    def get(self, path: str) -> Any:
        return self._request("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        where = f"{self.url}/{path}"
        try:
            response = self._session.request(method, where, json=body, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise ServerError(f"{where} does not answer ({_cause(error)})") from None
        if response.status_code != 200:
            said = self._key.redact(" ".join(response.text.split()))[:200]
            kind = RequestRefusedError if response.status_code in (400, 413, 422) else ServerError
            raise kind(f"{where} answers with status {response.status_code} ({said})")
        try:
            return response.json()
        except requests.JSONDecodeError:
            raise ServerError(f"{where} answers with no JSON; is it an OpenAI-compatible server?") from None


def _cause(error: requests.RequestException) -> str:
    """The kind of error at the bottom, such as ReadTimeoutError or NameResolutionError; the texts above are long."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return type(getattr(inner, "reason", inner)).__name__


def find_server(
    url: str,
    server_model: str | None,
    api_key_env: str | None,
    field: str,
    *,
    model_field: str | None = None,
    key_field: str | None = None,
) -> ModelSource:
    """Ask a server for its models.

    Args:
        url: up to and including ``/v1``.
        server_model: the name it serves the model by; may be left out where it serves only one.
        api_key_env: the environment variable that holds its key, where it wants one.
        field: what holds the URL, for messages, such as ``scorers.model``.
        model_field, key_field: what holds the other two; ``server_model`` and ``api_key_env`` of the same section when
            absent.

    Returns:
        the served name as ``id``, the URL as ``location``.

    Raises:
        UserError: no key or none that can be sent, no answer, or no such model.
    """
    section = field.rpartition(".")[0]
    model_field = model_field or f"{section}.server_model"
    key_field = key_field or f"{section}.api_key_env"
    key = Key(api_key_env)
    if api_key_env and not key.value:
        raise UserError(f"{key_field}: the environment variable {api_key_env} is not set; set it to the key")
    if not (key.value.isascii() and key.value.isprintable()):  # the HTTP library's own error would show it
        raise UserError(f"{key_field}: {api_key_env} does not fit into an HTTP header; set it to the key only")
    try:
        listed = Client(url.rstrip("/"), key, retries=1).get("models")
    except ServerError as error:
        raise UserError(f"{field}: {error}; give the URL up to /v1, start the server, check {key_field}") from None
    try:
        names = [str(entry["id"]) for entry in listed["data"]]
    except (KeyError, TypeError):
        raise UserError(f"{field}: {url}/models lists no models; give an OpenAI-compatible server") from None
    if server_model is None and len(names) == 1:
        server_model = names[0]
    if server_model not in names:
        missing = "" if server_model is None else f" and not {server_model!r}"
        raise UserError(f"{model_field}: {url} serves {', '.join(names) or 'nothing'}{missing}; name one of them")
    return ModelSource(server_model, url.rstrip("/"), None, SERVER, field)
