"""A server that answers by the OpenAI protocol, for tests: ``python stub_server.py MODE [MODEL …]`` prints its port.

It sees in an image how red it is: P(yes) is the mean red level / 255, spread over three spellings. ``STUB_KEY``, where
set, is the key it wants. Modes: good, slow, busy (503 and 429 twice each, then good), down (always 503), and the
nonsense of chatty, no_logprobs, html, echo (an error that repeats the key) and echo_once (at the second request alone:
the first is that of loading).
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageStat

MODE, MODELS = sys.argv[1], sys.argv[2:]
REFUSALS = [503, 429, 503, 429]
ECHOES = [True, False]  # from its end


def tokens(red: float) -> dict[str, float]:
    """The listed first tokens and their probabilities; an image without red has no yes, a pure red one no no."""
    listed = {"Yes": 0.5 * red, " yes": 0.3 * red, "▁YES": 0.1 * red, "No": 0.4 * (1 - red), "ĠNo": 0.2 * (1 - red)}
    return {token: p for token, p in listed.items() if p > 0} | {"Maybe": 0.1, "Yesterday": 0.05}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self._send(404, {"error": {"message": f"no {self.path}"}})
        elif self._has_key():
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or not self._has_key():
            return
        if MODE == "slow":
            time.sleep(5)
        if MODE == "html":
            self._send(200, "<html>hello</html>")
        elif MODE == "echo" or (MODE == "echo_once" and ECHOES and ECHOES.pop()):
            self._send(400, {"error": {"message": f"bad key {self.headers['Authorization']}"}})
        elif MODE == "down" or (MODE == "busy" and REFUSALS):
            self._send(503 if MODE == "down" else REFUSALS.pop(), {"error": {"message": "busy"}})
        else:
            self._send(200, self._answer(body))

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the protocol asks of a request is asserted here: a failure shows as a status of 500."""
        assert body["model"] in MODELS
        assert body["logprobs"] is True
        assert body["max_tokens"] == 1
        assert 2 <= body["top_logprobs"] <= 20
        ((image, text),) = [message["content"] for message in body["messages"]]
        assert (image["type"], text["type"]) == ("image_url", "text")
        assert "?" in text["text"]
        header, _, data = image["image_url"]["url"].partition(",")
        assert header == "data:image/png;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        found = {"<think>": 0.9, "The": 0.05} if MODE == "chatty" else tokens(ImageStat.Stat(picture).mean[0] / 255)
        listed = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in found.items()]
        content = [{"token": listed[0]["token"], "logprob": listed[0]["logprob"], "top_logprobs": listed}]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": listed[0]["token"]},
            "logprobs": None if MODE == "no_logprobs" else {"content": content},
            "finish_reason": "length",
        }
        return {"id": "1", "object": "chat.completion", "model": body["model"], "choices": [choice]}

    def _has_key(self) -> bool:
        key = os.environ.get("STUB_KEY")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            self._send(401, {"error": {"message": "no valid key"}})
            return False
        return True

    def _send(self, status: int, content: Any) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
