"""A served language model for tests: ``python stub_server.py MODE`` prints its port, and logs each prompt to stderr.

Modes: good (the question "Is there PROMPT?"), strange (asks for a unicorn), second (strange at the first try), chatty
(no JSON), thinking (in tags, with brackets), gone (dies at the third request), filter (refuses foxes), closed (refuses
all).
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODE = sys.argv[1]
SEEN: list[str] = []


def answer(messages: list[dict[str, str]]) -> str:
    prompt = messages[1]["content"].removeprefix("Description: ")
    assert prompt != messages[1]["content"]
    assert messages[0]["role"] == "system"
    SEEN.append(prompt)
    print(prompt, file=sys.stderr, flush=True)
    if MODE == "gone" and len(SEEN) > 2:
        os._exit(1)
    if MODE == "chatty":
        return "Sure! I would ask whether all of it is there."
    thought = "<think>[Is it there?] I would ask [that].</think>" if MODE == "thinking" else ""
    asked = [{"question": f"Is there {prompt}?", "answer": "Yes"}]
    if MODE == "strange" or (MODE == "second" and len(messages) == 2):
        asked.append({"question": "Is there a unicorn?", "answer": "Yes"})
    return f"{thought}Here they are:\n```json\n{json.dumps(asked)}\n```"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "tiny-llm", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "tiny-llm"
        if MODE == "closed" or (MODE == "filter" and "fox" in body["messages"][1]["content"]):
            self._send({"error": {"message": "the content is refused"}}, 400)
            return
        message = {"role": "assistant", "content": answer(body["messages"])}
        self._send({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})

    def _send(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
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
