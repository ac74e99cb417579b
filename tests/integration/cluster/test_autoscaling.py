"""A run grows a cluster from no machine to as many as it may have, and lets them go: Ray's autoscaler, local nodes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.autoscaled import MAX_MACHINES, NUM_PROMPTS

APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="process namespaces need root"),
]


@pytest.fixture
def short_folder() -> Iterator[str]:
    """For Ray's sockets, whose paths may not be long."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield folder


def test_nodes_are_added_when_teachers_and_cells_need_them_and_removed_afterwards(
    tmp_path: Path, short_folder: str
) -> None:
    bin_dir = Path(sys.executable).parent  # of the `ray` command
    result = subprocess.run(
        [*APART, sys.executable, "-m", "tests.fixtures.autoscaled", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=1100,
        check=True,
        env={**os.environ, "RAY_TMPDIR": short_folder, "PATH": f"{bin_dir}:{os.environ['PATH']}"},
    )
    found = json.loads(result.stdout.splitlines()[-1])
    machines = {"at_first": 0, "between": 0, "most": MAX_MACHINES, "at_last": 0}
    assert found == {**machines, "traces": NUM_PROMPTS, "cells": 4}
