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


def http_error(status: int, reason: str | None = None) -> HfHubHTTPError:
    request = httpx.Request("POST", "https://hub", headers={"authorization": f"Bearer {TOKEN}"})
    return HfHubHTTPError(f"{status}", response=httpx.Response(status, request=request), server_message=reason)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "repository" / "staged"


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
    assert not folder.parent.exists()


def test_a_repository_that_exists_is_refused_before_anything_is_written(folder: Path) -> None:
    made = list[Path]()
    with pytest.raises(InputError, match="exists already -> name another"):
        push(REPO, folder, writer(made), Hub({("model", REPO)}))  # type: ignore[arg-type]
    assert not made and not folder.parent.exists()


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
        (http_error(400, "Storage quota\nis exceeded"), "HTTP 400: Storage quota is exceeded -> correct that"),
        (OSError(28, "No space left on device"), "No space left on device -> mend that"),
        (LocalTokenNotFoundError("no token"), "no token of the model hub is set -> set HF_TOKEN"),
    ],
    ids=["forbidden", "unauthorised", "conflict", "server", "bad request", "disk", "no token"],
)
def test_a_refusal_of_the_hub_is_told_before_weights_are_converted(folder: Path, fault: Exception, what: str) -> None:
    made = list[Path]()
    with pytest.raises(InputError, match=what) as caught:
        push(REPO, folder, writer(made), Hub(create_repo=fault))  # type: ignore[arg-type]
    assert not made and TOKEN not in str(caught.value)


def test_a_refused_push_leaves_nothing_but_a_started_one_keeps_its_mark(folder: Path) -> None:
    with pytest.raises(InputError, match="no write access"):
        push(REPO, folder, writer([]), Hub(create_repo=http_error(403)))  # type: ignore[arg-type]
    assert not folder.parent.exists()
    hub = Hub(upload_folder=httpx.ConnectError("gone"))
    with pytest.raises(InputError, match="cannot be reached"):
        push(REPO, folder, writer([]), hub)  # type: ignore[arg-type]
    hub.faults["create_repo"] = http_error(401)  # the token has run out
    with pytest.raises(InputError, match="no write access"):
        push(REPO, folder, writer([]), hub)  # type: ignore[arg-type]
    push(REPO, folder, writer([]), hub)  # type: ignore[arg-type]
    assert set(hub.files) == {"README.md"}


def test_a_push_goes_on_with_other_formats_after_a_failed_conversion(folder: Path) -> None:
    def fail(_: Path) -> None:
        raise InputError("llama.cpp cannot convert it -> use --formats safetensors")

    hub, made = Hub(), list[Path]()
    with pytest.raises(InputError, match="use --formats safetensors"):
        push(REPO, folder, fail, hub)  # type: ignore[arg-type]
    push(REPO, folder.with_name("other formats"), writer(made), hub)  # type: ignore[arg-type]
    assert set(hub.files) == {"README.md"} and not folder.parent.exists()


def test_a_push_that_was_killed_while_it_created_the_repository_goes_on(folder: Path) -> None:
    class Killed(Hub):
        def create_repo(self, repo: str, *, repo_type: str, exist_ok: bool) -> None:
            super().create_repo(repo, repo_type=repo_type, exist_ok=exist_ok)
            if not exist_ok:
                raise KeyboardInterrupt

    hub = Killed()
    with pytest.raises(KeyboardInterrupt):
        push(REPO, folder, writer([]), hub)  # type: ignore[arg-type]
    push(REPO, folder, writer([]), hub)  # type: ignore[arg-type]
    assert set(hub.files) == {"README.md"}


def test_a_fault_of_writing_is_no_fault_of_the_hub(folder: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        push(REPO, folder, full, Hub())  # type: ignore[arg-type]


def test_a_card_that_the_hub_refuses_is_told_and_written_anew(folder: Path) -> None:
    hub, made = (
        Hub(upload_folder=ValueError('Invalid metadata in README.md.\n- "license" must be one of')),
        list[Path](),
    )
    with pytest.raises(InputError, match=r'refuses the card: Invalid metadata in README\.md\. - "license" must be'):
        push(REPO, folder, writer(made), hub)  # type: ignore[arg-type]
    push(REPO, folder, writer(made), hub)  # type: ignore[arg-type]
    assert len(made) == 2 and set(hub.files) == {"README.md"}


def test_a_cache_that_cannot_be_written_is_told(folder: Path) -> None:
    folder.parent.parent.joinpath("repository").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be kept there .* -> set XDG_CACHE_HOME"):
        push(REPO, folder, writer([]), Hub())  # type: ignore[arg-type]


def test_another_student_is_staged_elsewhere() -> None:
    folders: set[Any] = {staging(REPO, key) for key in ("one", "other")} | {
        staging("me/second", "one"),
        staging(REPO, "one", "dataset"),
    }
    assert len(folders) == 4
    assert staging(REPO, "one").parent == staging(REPO, "other").parent, "of one repository"
