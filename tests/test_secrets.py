"""Keys and tokens of the environment reach a served model, and nothing that a run writes or prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from noisesmith.pipeline.sinks import read_rows
from tests.runs import noisesmith, write_config

pytestmark = pytest.mark.slow

STUB = Path(__file__).parent / "scorers" / "stub_server.py"
SECRETS = {name: f"planted-{name.lower()}-4ad586" for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")}


def written_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def ray_dir() -> Iterator[Path]:
    """Where Ray puts its session: short, since the paths of its sockets must be."""
    with TemporaryDirectory(prefix="ns", dir="/tmp") as folder:
        yield Path(folder)


def test_no_secret_is_written_or_printed(
    tmp_path: Path, ray_dir: Path, monkeypatch: pytest.MonkeyPatch, tiny_sd: Path, tiny_llava: Path
) -> None:
    """Of a run whose server once repeats the key in an error, which gives a row up. Ray's session logs are read too."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RAY_TMPDIR", str(ray_dir))
    server = subprocess.Popen(
        [sys.executable, STUB, "echo_once", "tiny-vlm"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STUB_KEY": SECRETS["OPENAI_API_KEY"]},
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        config = write_config(
            tmp_path,
            tiny_sd,
            tiny_llava,
            rows=3,
            scorers={"model": url, "api_key_env": "OPENAI_API_KEY", "batch_size": 1},
            faults={"retries": 0},
        )
        code, output = noisesmith("run", config, "optimizer={method: random_sampling, rounds: 2}")
        assert (code, "1 rows failed" in output) == (0, True), output
        for command in ("status", "verify"):
            output += noisesmith(command, tmp_path / "run")[1]
        output += str(list(read_rows(tmp_path / "run")))  # its columns are compressed
    finally:
        server.kill()
        server.communicate()
    written = written_below(tmp_path / "run") | written_below(ray_dir)
    assert {"config.yaml", "manifest.jsonl", "stats.json", "README.md", "logs/run.jsonl"} <= written.keys()
    assert b"Bearer ***" in written["failed/shard-00000.jsonl"], "the key came back in the error"
    assert any(name.endswith("raylet.out") for name in written), "Ray's logs were looked at"
    for secret in SECRETS.values():
        assert secret not in output
        assert [name for name, content in written.items() if secret.encode() in content] == []
