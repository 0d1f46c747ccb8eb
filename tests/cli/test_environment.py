"""The command works in the environments that machines really have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from noisesmith.actors import placement
from noisesmith.pipeline.config import RunConfig

# Left over from other work on the machine; nothing answers there.
LEFT_OVER = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
    "RAY_ADDRESS": "ray://127.0.0.1:9",
}
# Under /proc not even root can write.
NO_HOME = {"HOME": "/proc/none", "HF_HOME": "/proc/none/hf", "XDG_CACHE_HOME": "/proc/none/cache"}
ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
MAIN = "from noisesmith.pipeline.cli import main; main()"


def python(folder: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A script on one core, in an environment of nothing else."""
    first_core = min(os.sched_getaffinity(0))
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {first_core}),
        check=False,
    )


def write_config(folder: Path, **changes: Any) -> None:
    config: dict[str, Any] = {
        "name": "x",
        "corpus": {"source": "embedded/simple", "size": 2},
        "generators": {"num_cpus": 0.5},
        "scorers": {"num_cpus": 0.5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes, allow_unicode=True), encoding="utf-8")


def test_help_is_shown_on_a_terminal_that_is_not_utf_8(tmp_path: Path) -> None:
    done = python(tmp_path, MAIN, "bench", "methods", "--help", **NO_HOME, **ASCII)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"--variants" in done.stdout


def test_a_plan_needs_no_home_no_network_no_unicode_and_one_core(tmp_path: Path) -> None:
    """And a mistake is one sentence there. All in one process, since to import everything takes seconds."""
    write_config(tmp_path, output={"dir": "out/é"})
    mistakes = {
        "seed=1": b"output.dir: 'out/\\xe9' is no file name in ascii",
        "corpus.source=é.txt": b"source holds half a surrogate pair",
        "generators.num_cpus=1": b"but this machine has 1; lower count or num_cpus",
    }
    script = (
        "import sys\n"
        "from noisesmith.pipeline.cli import main\n"
        "for override in sys.argv[1:]:\n"
        "    sys.argv = ['noisesmith', 'plan', 'config.yaml', override]\n"
        "    try: main()\n"
        "    except SystemExit as ended: print('exit', ended.code)\n"
    )
    done = python(tmp_path, script, "output.dir=x", *mistakes, **LEFT_OVER, **NO_HOME, **ASCII)
    assert done.returncode == 0, done.stderr
    exits = [line for line in done.stdout.splitlines() if line.startswith(b"exit")]
    assert exits == [b"exit 0", b"exit 2", b"exit 2", b"exit 2"]
    assert b"64?64 px" in done.stdout, "a terminal without \xd7 shows a question mark"
    lines = done.stderr.splitlines()
    assert len(lines) == len(mistakes)
    for line, words in zip(lines, mistakes.values(), strict=True):
        assert line.startswith(b"error: ")
        assert words in line


def test_a_cluster_has_a_password_where_ray_cannot_keep_one(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, HOME=str(tmp_path)):
        os.environ.pop("RAY_AUTH_TOKEN", None)
        placement._set_token()
        assert "RAY_AUTH_TOKEN" not in os.environ, "Ray writes ~/.ray/auth_token"
        os.environ.update(NO_HOME)
        placement._set_token()
        token = os.environ["RAY_AUTH_TOKEN"]
        placement._set_token()
        assert len(token) == 64
        assert os.environ["RAY_AUTH_TOKEN"] == token, "the process that has read it goes on with it"


def test_an_address_in_the_environment_is_no_cluster_to_join(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without ``ray.address`` a run has a cluster of its own."""
    init = mock.Mock()
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setenv("RAY_ADDRESS", LEFT_OVER["RAY_ADDRESS"])
    config = RunConfig.model_validate({"generators": {"num_cpus": 0.5}, "scorers": {"num_cpus": 0.5}})
    monkeypatch.setenv("HOME", str(tmp_path))
    placement._start_cluster(config, tmp_path, print)
    assert init.call_args.kwargs["address"] == "local"
