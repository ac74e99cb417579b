"""A full disk beside the run's own files: temporary files, the cache of models, what a command writes elsewhere."""

import errno
import tempfile
from types import SimpleNamespace
from typing import Any, cast

import pytest

from distill import pipeline
from distill.cli import main as command_line
from distill.config.models import ModelConfig
from distill.core.errors import DistillError, FullDiskError
from distill.core.run_dir import RunDir, StageName
from distill.mix.text_buckets import TextBuckets
from distill.models import resolve
from distill.models.save import try_save
from distill.run.stage_keys import StageState
from distill.stages import Stage


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stage_whose_libraries_find_no_room_ends_with_the_remedy(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = list[tuple[str, str]]()
    monkeypatch.setattr(pipeline, "log_event", lambda event, **about: logged.append((event, about.get("error", ""))))
    context: Any = SimpleNamespace(run_dir=run_dir, recipe=SimpleNamespace(name="r"))
    state = cast(StageState, SimpleNamespace(reason="new"))
    with pytest.raises(FullDiskError, match=r"could not be written -> make room there .* the same command again"):
        pipeline.run_stage(Stage(StageName.MIX, full, (), ()), context, state)
    assert logged[-1][0] == "stage fails" and "make room there" in logged[-1][1]


def test_a_command_that_finds_no_room_prints_the_sentence_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "verb_named", lambda name: full)
    assert command_line.main(["status", "runs/none"]) == DistillError.exit_code
    assert capsys.readouterr().err.startswith("no room is left on the disk of ")


def test_a_cache_without_room_does_not_have_another_source_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_prepare", full)
    with pytest.raises(FullDiskError, match="no room is left on"):
        resolve.resolve_model("m", ModelConfig(sources=("first/model", "second/model")))


def test_a_student_that_temporary_files_have_no_room_for_is_not_called_wrong() -> None:
    config = SimpleNamespace(save_pretrained=full, name_or_path="m")
    with pytest.raises(FullDiskError, match=f"the disk of {tempfile.gettempdir()}: "):
        try_save(cast(Any, SimpleNamespace(config=config, generation_config=None)), cast(Any, None))


def test_texts_that_temporary_files_have_no_room_for_name_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import pyarrow as pa

    with TextBuckets(1) as texts:
        monkeypatch.setattr(texts, "_writer", lambda bucket: SimpleNamespace(write_batch=full))
        with pytest.raises(FullDiskError, match="distill-mix-"):
            texts.add(np.zeros(1, np.int64), np.zeros(1, np.int64), pa.array(["text"]))
