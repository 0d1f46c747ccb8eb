"""Uploads a dataset to the Hub in few commits, goes on after a kill, and checks what the Hub holds then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.publish.plan import PER_COMMIT, Plan, PublishedFile

_DATA_FOLDERS = ("data/", "tars/", "side/")


@dataclass(frozen=True)
class Published:
    """How an upload ended: the dataset's address, and how many files and commits this call has sent."""

    url: str
    files: int
    commits: int


def hub_of(token: str | None, token_env: str | None) -> HfApi:
    """Return a client of the Hub (of ``HF_ENDPOINT`` where it is set).

    Args:
        token: that of ``token_env`` where a variable is named, or else of the user's login.

    Raises:
        UserError: there is no token.
    """
    if not token and token_env:
        raise UserError(
            f"--token-env: the environment variable {token_env} is not set; put a token with write access in it"
        )
    if not token:
        raise UserError("there is no token for the Hub; run `hf auth login`, or name a variable with --token-env")
    return HfApi(token=token, library_name="noisesmith")


def upload(plan: Plan, api: HfApi, *, private: bool, note: Callable[[str], None]) -> Published:
    """Upload what the repository lacks, and compare all of it with what the Hub then says it holds.

    Files go up in commits of at most :data:`PER_COMMIT`; those that are there already are not sent again. The card
    comes last, so a dataset without one is not whole.

    Args:
        private: create the repository as a private one.
        note: called with one line per commit.

    Raises:
        UserError: the token, the repository or a file of the run cannot be used.
        RunError: the Hub cannot be reached or fails, or holds other content than was sent.
    """
    repository = plan.repository
    with _explained(repository, api.endpoint):
        url = str(api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True))
        if private and not api.dataset_info(repository).private:
            raise UserError(
                f"{repository}: exists and is public; make it private in its settings, or leave out --private"
            )
        held = _held(api, repository)
    _refuse_other_data(plan, held)
    missing = [file for file in plan.files if not _is_same(file, held.get(file.path))]
    batches = [missing[start : start + PER_COMMIT] for start in range(0, len(missing), PER_COMMIT)]
    for number, batch in enumerate(batches, 1):
        note(f"commit {number} of {len(batches)}: {len(batch)} files, {_size(batch) / 1e6:.1f} MB")
        operations = _operations(batch)
        with _explained(repository, api.endpoint):
            api.create_commit(
                repository,
                operations,
                commit_message=f"Upload {len(batch)} files of {len(plan.files)} with noisesmith",
                repo_type="dataset",
            )
    with _explained(repository, api.endpoint):
        held = _held(api, repository)
    _check_held(plan, held)
    return Published(url, len(missing), len(batches))


def _held(api: HfApi, repository: str) -> dict[str, RepoFile]:
    """The files of a repository by path, as the Hub lists them."""
    files = {}
    for item in api.list_repo_tree(repository, recursive=True, repo_type="dataset"):
        if isinstance(item, RepoFile):
            files[item.path] = item
    return files


def _refuse_other_data(plan: Plan, held: Mapping[str, RepoFile]) -> None:
    """Refuse a repository with data files of another dataset: a reader would take them for rows of this one."""
    own = {file.path for file in plan.files}
    others = [path for path in sorted(held) if path.startswith(_DATA_FOLDERS) and path not in own]
    outdated = [path for path in others if path in plan.lacking]
    if outdated:
        raise UserError(
            f"{plan.repository}: holds {outdated[0]}, whose shard has other rows now; make this side table again, with "
            "noisesmith rescore or accept, then publish again"
        )
    if others:
        raise UserError(
            f"{plan.repository}: holds {len(others)} data files that are not of this run, such as {others[0]}; publish "
            "to another repository, or delete them there"
        )


def _is_same(file: PublishedFile, held: RepoFile | None) -> bool:
    """Whether the Hub holds a file's content: it states the SHA-256 of large files, and the Git hash of small ones."""
    if held is None or held.size != file.bytes:
        return False
    if held.lfs is not None:
        return held.lfs.sha256 == file.sha256
    content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
    return held.blob_id == git_hash(content)


def _operations(batch: Sequence[PublishedFile]) -> list[CommitOperationAdd]:
    """What to commit. Every file is read and compared with its manifest before anything of its batch is sent.

    Raises:
        UserError: a file is missing or damaged.
    """
    operations = []
    for file in batch:
        content = file.content if isinstance(file.content, bytes) else str(file.content)
        try:
            operation = CommitOperationAdd(file.path, content)
            is_sound = operation.upload_info.sha256.hex() == file.sha256
        except (OSError, ValueError):
            is_sound = False
        if not is_sound:
            raise UserError(f"{file.path}: is missing or damaged; run noisesmith verify --repair, then publish again")
        operations.append(operation)
    return operations


def _check_held(plan: Plan, held: Mapping[str, RepoFile]) -> None:
    for file in plan.files:
        found = held.get(file.path)
        if found is None:
            raise RunError(
                f"{plan.repository}: {file.path} was sent and is not there; a .gitignore in the repository may leave "
                "it out"
            )
        if not _is_same(file, found):
            raise RunError(f"{plan.repository}: {file.path} is not there as it was sent")


def _size(files: Sequence[PublishedFile]) -> int:
    return sum(file.bytes for file in files)


@contextmanager
def _explained(repository: str, endpoint: str) -> Iterator[None]:
    """Explain in one sentence why the Hub refuses a request or cannot be reached.

    Raises:
        UserError: another token or repository helps. RunError: trying again helps.
    """
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError(f"{repository}: HF_HUB_OFFLINE forbids to reach the Hub; unset it to publish") from None
    except HfHubHTTPError as error:
        raise _refusal(repository, endpoint, error) from error
    except httpx2.TransportError as error:
        raise RunError(f"{repository}: the Hub at {endpoint} is out of reach ({reason(error)})") from error
    except RuntimeError as error:  # a failed upload of a large file, whose cause says why
        if error.__cause__ is None:
            raise
        with _explained(repository, endpoint):
            raise error.__cause__ from None
    except ValueError as error:
        if "LFS" not in str(error):
            raise
        raise RunError(f"{repository}: the Hub does not take a file ({str(error).splitlines()[-1]})") from error


def _refusal(repository: str, endpoint: str, error: HfHubHTTPError) -> UserError | RunError:
    status = error.response.status_code
    owner = repository.split("/")[0]
    if status == 401:
        return UserError(
            f"{repository}: the Hub at {endpoint} does not know this token; make one in {endpoint}/settings/tokens"
        )
    if status == 403:
        return UserError(f"{repository}: this token may not write there; use one with write access to {owner}")
    if status == 404:
        return UserError(f"{repository}: the Hub finds no such owner or repository; check the name")
    if status == 429:
        return RunError(f"{repository}: the Hub asks to wait, since it limits the commits per hour")
    return RunError(f"{repository}: the Hub at {endpoint} answered with status {status} ({reason(error)})")
