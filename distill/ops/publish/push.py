"""Pushes a folder to the Hugging Face hub, a student or data. An interrupted push continues with the same command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.storage import cache_dir
from distill.core.errors import InputError
from distill.core.schema import content_hash

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hf://"
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


def staging(repo: str, made_of: str) -> Path:
    """Where the folder of a push is kept until all of it is on the hub. `made_of`: what decides its content."""
    return cache_dir().parent / "publish" / f"{repo.replace('/', '--')}-{content_hash(repo, made_of)[:12]}"


def push(
    repo: str, folder: Path, write: Callable[[Path], object], api: HfApi, kind: Literal["model", "dataset"] = "model"
) -> str:
    """Create the repository, write the folder where it is not there yet, and upload it; its address.

    The repository is created first: no access is told before the weights are converted. One that exists is refused,
    unless it is the one that an interrupted push of the same folder has created.

    Args:
        repo: OWNER/NAME.
        folder: of `staging`.
        write: writes the folder.
        api: of huggingface_hub.
        kind: of the repository.

    Raises:
        InputError: there is no token, no write access, no connection, or the repository exists.
    """
    from httpx import HTTPError as ConnectionFault
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    ours = folder.with_name(f"{folder.name}.pushing.json")
    try:
        if not ours.is_file():
            if api.repo_exists(repo, repo_type=kind):
                raise InputError(f"hf://{repo} exists already -> name another repository")
            api.create_repo(repo, repo_type=kind, exist_ok=False)
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.write_text(json.dumps({"repo": repo}))
        if not folder.exists():
            write(folder)
        # It resumes: files that are there are skipped, parts that were sent are not sent again.
        message = "Published by mix distillation"
        api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=message)
    except LocalTokenNotFoundError as error:
        raise InputError(f"hf://{repo}: no token of the model hub is set -> {LOGIN}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(f"hf://{repo}: no write access (HTTP {status}) -> {LOGIN}") from error
        if status == 409:
            raise InputError(f"hf://{repo} exists already -> name another repository") from error
        raise InputError(f"hf://{repo}: the hub answered HTTP {status} -> the same command continues") from error
    except HFValidationError as error:
        raise InputError(f"hf://{repo}: no valid name of a repository -> hf://OWNER/NAME") from error
    except (ConnectionFault, OSError) as error:
        raise InputError(
            f"hf://{repo}: the model hub cannot be reached ({type(error).__name__}) -> the same command continues"
        ) from error
    shutil.rmtree(folder)
    ours.unlink()
    return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
