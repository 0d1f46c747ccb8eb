"""A finished run is uploaded to a local Hub by huggingface_hub's own client, and read back from there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import DatasetCard, HfApi, constants

from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.publish import Plan, Published, hub, hub_of, make_plan, plan, upload
from noisesmith.pipeline.publish.plan import in_memory
from noisesmith.pipeline.report import write_report
from noisesmith.pipeline.sinks import SideWriter, hold_side, read_rows
from noisesmith.pipeline.sinks.manifest import read_manifest
from tests.hub import Hub, Repository
from tests.runs import noisesmith, start
from tests.sinks.conftest import PROVENANCE, Run, failure, result

NAME = "owner/some-dataset"
PLANTED_HOST = "planted-host-4ad586"
PLANTED_URL = f"http://{PLANTED_HOST}:8000/v1"
EYE = {"model": f"/srv/{PLANTED_HOST}/models/eye-v3", "revision": "3"}
READ = """
import json, sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1])["train"].with_format("arrow")[:].to_pylist()
for row in rows:
    for name in ("image", "image_initial"):
        row[name] = row[name]["bytes"].hex()
table = load_dataset(sys.argv[1], "sharpness", split="train").to_list()
tars = load_dataset("webdataset", data_files=f"hf://datasets/{sys.argv[1]}/tars/*.tar", split="train", streaming=True)
print(json.dumps([rows, table, [sample["txt"] for sample in tars]]))
"""


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so none needs the disk's word."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def local_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a Hub to reach here, although it does not speak the Xet protocol."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def server() -> Iterator[Hub]:
    served = Hub()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nine rows of ten, a side table, a served judge, and files that name the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        judge = {"name": "eye", "model": PLANTED_URL, "server_model": "seer"}
        lines = [{"prompt": f"prompt\n{n}", "topic": "pets", "n": n} for n in range(10)]
        made = Run(tmp_path_factory.mktemp("planted"), lines, judges=[judge])
        writer = made.writer()
        for row in made.rows[:9]:
            writer.put(result(row))
        writer.fail(failure(made.rows[9], PLANTED_HOST))
        with hold_side(made.dir, print) as lock:
            writer_of_table = SideWriter(made.dir, "sharpness", pa.schema([("sharpness", pa.float64())]), lock)
            for shard in writer_of_table.filled():
                ids = [row["id"] for row in writer_of_table.rows(shard, ["id"])]
                writer_of_table.put(shard, [{"id": name, "sharpness": 0.5} for name in ids], EYE)
        write_report(made.dir, made.config, PROVENANCE, {"host": PLANTED_HOST})
    (made.dir / "logs").mkdir()
    (made.dir / "logs" / "run.jsonl").write_text(PLANTED_HOST)
    (made.dir / "data" / "notes.txt").write_text(PLANTED_HOST)
    return made


@pytest.fixture
def send(server: Hub, run: Run) -> Callable[..., Published]:
    """Upload the run to the local server."""

    def send(token: str = "hf_write", private: bool = False) -> Published:
        api = HfApi(endpoint=server.url, token=token)
        return upload(make_plan(run.dir, NAME), api, private=private, note=print)

    return send


def uploads(server: Hub) -> list[str]:
    return [request for request in server.requests if request.startswith("PUT")]


def test_a_killed_upload_goes_on_and_is_read_back_row_for_row(server: Hub, run: Run, tmp_path: Path) -> None:
    environment: dict[str, Any] = {
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "PLANTED_TOKEN": "hf_write",
        "HF_TOKEN": "hf_read",
    }
    command = ("publish", run.dir, NAME, "--token-env", "PLANTED_TOKEN")
    process = start(*command, **environment)

    def kill_at_the_commit(_: str, path: str) -> int | None:
        if "/commit/" not in path:
            return None
        process.send_signal(signal.SIGKILL)
        return 0

    server.fault = kill_at_the_commit
    process.communicate()
    server.fault = None
    assert process.returncode == -signal.SIGKILL
    assert server.repositories[NAME].commits == []
    sent = uploads(server)
    code, output = noisesmith(*command, **environment)
    assert code == 0, output
    assert f"{server.url}/datasets/{NAME}: 11 files, checked; sent 11 in 1 commits" in output
    assert "hf_write" not in output
    assert uploads(server) == sent  # the large files had arrived before the kill
    assert len(server.repositories[NAME].commits) == 1

    read = [sys.executable, "-c", READ, NAME]
    done = subprocess.run(read, capture_output=True, text=True, env={**os.environ, **environment}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows, table, prompts = json.loads(done.stdout)
    own = list(read_manifest(run.dir).header.columns)
    expected = list(read_rows(run.dir, own))
    for row in expected:
        for name in ("image", "image_initial"):
            row[name] = row[name].hex()
    assert rows == expected
    assert table == [{"id": row["id"], "sharpness": 0.5} for row in expected]
    assert prompts == [row["prompt"] for row in expected]


def test_failures_in_the_middle(server: Hub, send: Callable[..., Published], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was committed is sent again, and nothing that was uploaded for a commit that failed."""
    monkeypatch.setattr(hub, "PER_COMMIT", 4)
    faults = iter([("PUT", 3, 400), ("/commit/", 2, 503), ("/commit/", 2, 0), ("/tree/", 2, 400)])
    for where, at, status in faults:
        seen: list[str] = []

        def fault(
            method: str, path: str, where: str = where, at: int = at, status: int = status, seen: list[str] = seen
        ) -> int | None:
            if where not in f"{method} {path}":
                return None
            seen.append(path)
            return status if len(seen) == at else None

        server.fault = fault
        with pytest.raises(RunError, match=f"^{NAME}: the Hub at {server.url} (answered with|is out of reach)"):
            send()
    server.fault = None
    assert send().files == 0
    assert [len(paths) for paths in server.repositories[NAME].commits] == [4, 4, 3]
    assert len(uploads(server)) == len(set(uploads(server))) + 1  # the one that failed
    assert server.repositories[NAME].commits[-1] == [
        "README.md",
        "contact_sheet.png",
        "side/sharpness/" + _last(server),
    ]


def _last(server: Hub) -> str:
    return sorted(path for path in server.repositories[NAME].files if path.startswith("side/"))[-1].rsplit("/", 1)[1]


def test_nothing_of_the_machine_is_published(server: Hub, run: Run, send: Callable[..., Published]) -> None:
    send()
    files = server.repositories[NAME].files
    shards = [f"train-{shard:05d}-of-00003" for shard in range(3)]
    assert set(files) == {
        "README.md",
        "contact_sheet.png",
        *(f"data/{name}.parquet" for name in shards),
        *(f"tars/{name}.tar" for name in shards),
        *(f"side/sharpness/{name}.parquet" for name in shards),
    }
    private = [PLANTED_HOST, str(run.dir), str(run.dir.parent), run.dir.parent.name, "hf_write"]
    for path, content in files.items():
        for text in private:
            assert text.encode() not in content, f"{text} in {path}"
    card = files["README.md"].decode()
    assert "| prompts | p.jsonl |" in card
    assert "eye (a served model)" in card


def test_the_card_is_for_readers_of_the_repository(run: Run) -> None:
    (readme,) = [file for file in make_plan(run.dir, NAME).files if file.path == "README.md"]
    assert isinstance(readme.content, bytes)
    text = readme.content.decode()
    data: Any = DatasetCard(text).data
    assert [part["config_name"] for part in data.configs] == ["default", "sharpness"]
    assert data.license == "apache-2.0"
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")
    assert f'load_dataset("{NAME}", split="train")' in code
    assert f'"hf://datasets/{NAME}/tars/*.tar"' in code
    for word in ("RUN", "config.yaml", "`failed/`", "noisesmith replay"):
        assert word not in text
    assert "1 row failed" in text


def test_a_second_upload_sends_what_has_changed(server: Hub, send: Callable[..., Published]) -> None:
    assert send().files == 11
    assert send() == Published(f"{server.url}/datasets/{NAME}", 0, 0)
    server.repositories[NAME].files["README.md"] = b"edited there"
    assert send().files == 1


def test_commits_are_few(server: Hub) -> None:
    """At most one per 50 files, also for 1,000 shards in both formats."""
    thousand = Plan(NAME, tuple(in_memory(f"data/{n}", b"") for n in range(2002)))
    assert thousand.commits == 21
    small = Plan(NAME, tuple(in_memory(f"data/{n}.json", b"%d" % n) for n in range(120)))
    done = upload(small, HfApi(endpoint=server.url, token="hf_write"), private=False, note=print)
    assert done.commits == small.commits == len(server.repositories[NAME].commits) == 2


def test_private(server: Hub, send: Callable[..., Published]) -> None:
    send(private=True)
    assert server.repositories[NAME].private
    server.repositories[NAME].private = False
    with pytest.raises(UserError, match="exists and is public; make it private in its settings"):
        send(private=True)


@pytest.mark.parametrize(
    ("token", "sentence"), [("hf_none", "does not know this token; make one in"), ("hf_read", "may not write there")]
)
def test_a_token_that_does_not_suffice(send: Callable[..., Published], token: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        send(token)
    assert token not in str(caught.value)


def test_no_token() -> None:
    with pytest.raises(UserError, match="there is no token for the Hub; run `hf auth login`"):
        hub_of(None, None)
    with pytest.raises(UserError, match="--token-env: the environment variable MINE is not set"):
        hub_of(None, "MINE")


def test_no_network(server: Hub, send: Callable[..., Published]) -> None:
    server.stop()
    with pytest.raises(RunError, match="is out of reach"):
        send()


def test_a_repository_with_other_data(server: Hub, send: Callable[..., Published]) -> None:
    server.repositories[NAME] = Repository(files={"data/train-00000-of-00002.parquet": b"", "README.md": b""})
    with pytest.raises(
        UserError, match=r"holds 1 data files that are not of this run, such as data/train-00000-of-00002"
    ):
        send()
    assert server.repositories[NAME].commits == []


def test_a_side_table_of_other_rows_is_made_again_first(server: Hub, tmp_path: Path) -> None:
    """As after a retry that has committed a shard again."""
    run = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(10)]).write_all()
    with hold_side(run.dir, print) as lock:
        table = SideWriter(run.dir, "sharpness", pa.schema([("sharpness", pa.float64())]), lock)
        table.put(0, [{"id": row["id"]} for row in table.rows(0, ["id"])], EYE)
    write_report(run.dir, run.config, PROVENANCE, {})
    server.repositories[NAME] = Repository(files={"side/sharpness/train-00001-of-00003.parquet": b""})
    with pytest.raises(UserError, match=r"train-00001-of-00003.parquet, whose shard .*; make this side table"):
        upload(make_plan(run.dir, NAME), HfApi(endpoint=server.url, token="hf_write"), private=False, note=print)
    assert server.repositories[NAME].commits == []


def test_a_repository_that_ignores_files(server: Hub, send: Callable[..., Published]) -> None:
    server.repositories[NAME] = Repository(files={".gitignore": b"tars/"})
    with pytest.raises(RunError, match=r"tars/.* was sent and is not there; a \.gitignore"):
        send()


def test_a_damaged_file_is_found_before_it_is_sent(server: Hub, run: Run, send: Callable[..., Published]) -> None:
    shard = run.dir / "tars" / "train-00001-of-00003.tar"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + b"?")
    try:
        with pytest.raises(UserError, match=r"train-00001-of-00003.tar: is missing or damaged; run noisesmith verify"):
            send()
    finally:
        shard.write_bytes(sound)
    assert uploads(server) == []


def test_an_unfinished_run(tmp_path: Path) -> None:
    made = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(10)])
    writer = made.writer()
    for row in made.rows[:5]:
        writer.put(result(row))
    with pytest.raises(UserError, match="2 of 3 shards are not committed yet; finish the run with noisesmith retry"):
        make_plan(made.dir, NAME)
    for row in made.rows[5:]:
        writer.put(result(row))
    with pytest.raises(UserError, match="its report is not of the rows that it holds; run its config again"):
        make_plan(made.dir, NAME)


@pytest.mark.parametrize("name", ["dataset", "a/b/c", "own er/x", "owner/x.git"])
def test_a_name_that_is_no_repository(run: Run, name: str) -> None:
    with pytest.raises(UserError, match="names no repository; give OWNER/NAME"):
        make_plan(run.dir, name)


def test_rows_that_name_a_path_are_published_on_request_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*_: Any) -> Iterator[dict[str, str]]:
        yield {"generator": "/home/me/models/mine", "scorer": "org/vlm + http://box:8000/v1"}

    monkeypatch.setattr(plan, "read_rows", rows)
    with pytest.raises(UserError, match=r"every row names '/home/me/models/mine', .*publish it with --allow-paths"):
        make_plan(run.dir, NAME)
    assert len(make_plan(run.dir, NAME, allow_paths=True).files) == 11


def test_a_dry_run_needs_no_token_and_no_network(run: Run) -> None:
    code, output = noisesmith(
        "publish", run.dir, NAME, "--dry-run", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1"
    )
    assert code == 0, output
    assert "data/train-00000-of-00003.parquet" in output
    assert "11 files" in output
    assert "in 1 commits; nothing was sent" in output
    assert f'load_dataset("{NAME}", split="train")' in output
