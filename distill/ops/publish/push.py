"""Pushes a folder to the Hugging Face hub, a student or data. An interrupted push continues with the same command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.storage import cache_dir
from distill.core.errors import InputError
from distill.core.schema import content_hash

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["model", "dataset"]
HUB = "hf://"
MARK = "pushing.json"
EXISTS = "exists already -> name another repository"
LOGIN = "set HF_TOKEN, or log in with `hf auth login`, with a token that may write"


def repository(address: str, option: str = "--to") -> str:
    """OWNER/NAME of `hf://OWNER/NAME`. `option`: where it was given.

    Raises:
        InputError: it is no such address.
    """
    name = address.removeprefix(HUB).strip("/")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{option} {address}: no repository -> hf://OWNER/NAME")
    return name


def staging(repo: str, made_of: str, kind: Kind = "model") -> Path:
    """Where the folder of a push is kept until all of it is on the hub, beside the mark that the repository is ours.

    `made_of`: what decides its content.
    """
    return cache_dir().parent / "publish" / f"{kind}--{repo.replace('/', '--')}" / content_hash(made_of)[:12]


def push(repo: str, folder: Path, write: Callable[[Path], object], api: HfApi, kind: Kind = "model") -> str:
    """Create the repository, write the folder where it is not there yet, and upload it; its address.

    The repository is created first: no access is told before the weights are converted. One that exists is refused,
    unless it is the one that an interrupted push from this machine has created, of whatever folder.

    Args:
        repo: OWNER/NAME.
        folder: of `staging`.
        write: writes the folder.
        api: of huggingface_hub.
        kind: of the repository.

    Raises:
        InputError: there is no token, no write access, no connection, the repository exists, or the hub refuses the
            card.
    """
    _create(repo, folder.parent / MARK, api, kind)
    if not folder.exists():
        write(folder)
    # It resumes: files that are there are skipped, parts that were sent are not sent again.
    message = "Published by mix distillation"
    try:
        with _told(repo):
            api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=message)
    except ValueError as error:
        shutil.rmtree(folder)  # as it stands it is refused for good
        reason = " ".join(str(error).split())
        raise InputError(f"hf://{repo}: the hub refuses the card: {reason} -> correct it in the recipe") from error
    shutil.rmtree(folder.parent)
    return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"


def _create(repo: str, mark: Path, api: HfApi, kind: Kind) -> None:
    """Create the repository. The mark is written first: killed in between, the next push knows that it is its own."""
    is_ours = mark.is_file()
    with _told(repo):
        if not is_ours and api.repo_exists(repo, repo_type=kind):
            raise InputError(f"hf://{repo} {EXISTS}")
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps({"repo": repo, "kind": kind}))
    except OSError as error:
        what = f"what is pushed cannot be kept there ({error.strerror})"
        raise InputError(f"{mark.parent}: {what} -> set XDG_CACHE_HOME to a folder that can be written") from error
    try:
        with _told(repo):
            api.create_repo(repo, repo_type=kind, exist_ok=is_ours)
    except _RefusedError:
        if not is_ours:  # nothing was created
            shutil.rmtree(mark.parent)
        raise


class _RefusedError(InputError):
    """The hub did not do what it was asked for, for certain."""


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Faults of the hub as errors that say what to do."""
    from httpx import HTTPError as ConnectionFault
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise _RefusedError(f"hf://{repo}: no token of the model hub is set -> {LOGIN}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        reason = f": {' '.join(error.server_message.split())}" if error.server_message else ""
        if status in (401, 403):
            raise _RefusedError(f"hf://{repo}: no write access (HTTP {status}{reason}) -> {LOGIN}") from error
        if status == 409:
            raise _RefusedError(f"hf://{repo} {EXISTS}") from error
        answer = f"hf://{repo}: the hub answered HTTP {status}{reason}"
        if 400 <= status < 500 and status != 429:
            raise _RefusedError(f"{answer} -> correct that, then the same command continues") from error
        raise InputError(f"{answer} -> the same command continues") from error
    except HFValidationError as error:
        raise _RefusedError(f"hf://{repo}: no valid name of a repository -> hf://OWNER/NAME") from error
    except (ConnectionFault, ConnectionError, TimeoutError) as error:
        what = f"the model hub cannot be reached ({type(error).__name__})"
        raise InputError(f"hf://{repo}: {what} -> the same command continues") from error
    except OSError as error:  # of this machine: a full disk, a file that cannot be read
        raise InputError(f"hf://{repo}: {error} -> mend that, then the same command continues") from error
