"""The application of a Serve config file that `distill serve --write-config` wrote; Ray Serve imports it to deploy."""

import os
from typing import Any

from distill.core.run_dir import RunDir
from distill.ops.deploy.endpoint import BenchmarkChecker
from distill.run.run_recipe import load_run_recipe
from serve.app import build_app
from serve.config_file import read_arguments


def from_config_file(arguments: dict[str, Any]) -> Any:
    """The application that serves a run's students."""
    run_dir = RunDir(arguments["run_dir"])
    checker = BenchmarkChecker.of(load_run_recipe(run_dir), run_dir)
    return build_app(*read_arguments(arguments, os.environ), checker)
