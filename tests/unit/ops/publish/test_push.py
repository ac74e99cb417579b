"""Pushing: nothing is overwritten, an interrupted push continues, errors say what to do and hold no token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from distill.core.errors import InputError
from distill.ops.publish.push import push, staging
from tests.fixtures.hub import Hub

REPO, TOKEN = "me/student", "hf_secretsecret"


def http_error(status: int) -> HfHubHTTPError:
    request = httpx.Request("POST", "https://hub", headers={"authorization": f"Bearer {TOKEN}"})
    return HfHubHTTPError(f"{status}", response=httpx.Response(status, request=request))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "staged"


def writer(made: list[Path]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "README.md").write_text("card")
        made.append(folder)

    return write


def test_a_push_creates_uploads_and_cleans_up(folder: Path) -> None:
    hub, made = Hub(), list[Path]()
    assert push(REPO, folder, writer(made), hub) == f"https://huggingface.co/{REPO}"  # type: ignore[arg-type]
    assert set(hub.files) == {"README.md"}
    assert not list(folder.parent.iterdir())


def test_a_repository_that_exists_is_refused_before_anything_is_written(folder: Path) -> None:
    made = list[Path]()
    with pytest.raises(InputError, match="exists already -> name another"):
        push(REPO, folder, writer(made), Hub({("model", REPO)}))  # type: ignore[arg-type]
    assert not made and not list(folder.parent.iterdir())


def test_an_interrupted_push_continues_into_its_own_repository(folder: Path) -> None:
    hub, made = Hub(upload_folder=httpx.ConnectError("gone")), list[Path]()
    with pytest.raises(InputError, match=r"cannot be reached .* -> the same command continues"):
        push(REPO, folder, writer(made), hub)  # type: ignore[arg-type]
    push(REPO, folder, writer(made), hub)  # type: ignore[arg-type]
    assert set(hub.files) == {"README.md"} and len(made) == 1  # converted once


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (http_error(403), "no write access .HTTP 403. -> set HF_TOKEN"),
        (http_error(401), "no write access"),
        (http_error(409), "exists already"),
        (http_error(500), "HTTP 500 -> the same command continues"),
        (LocalTokenNotFoundError("no token"), "no token of the model hub is set -> set HF_TOKEN"),
    ],
    ids=["forbidden", "unauthorised", "conflict", "server", "no token"],
)
def test_a_refusal_of_the_hub_is_told_before_weights_are_converted(folder: Path, fault: Exception, what: str) -> None:
    made = list[Path]()
    with pytest.raises(InputError, match=what) as caught:
        push(REPO, folder, writer(made), Hub(create_repo=fault))  # type: ignore[arg-type]
    assert not made and TOKEN not in str(caught.value)


def test_another_student_is_staged_elsewhere() -> None:
    folders: set[Any] = {staging(REPO, key) for key in ("one", "other")} | {staging("me/second", "one")}
    assert len(folders) == 3
