"""Deploys endpoints on Ray Serve, waits until every model has answered, and deletes the deployment.

The caller has connected to Ray. Nothing here writes to the terminal.
"""

import errno
import glob
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from serve.client import served_models, warm_up
from serve.config import APP, ENGINE_PREFIX, Endpoint, EngineSpec, ServeConfig, group_engines
from serve.engines.ray_serve import running_client
from serve.errors import ServeError
from serve.key_variables import NO_KEY
from serve.keys import Key, hash_key
from serve.smoke_check import SmokeCheck, run_smoke_checks

if TYPE_CHECKING:
    from serve.api.ingress import Checker

POLL_S = 0.5
PROXY_GRACE_S = 30.0
"""Longest time from a running application until its port answers, seconds."""


Step = Literal["engines", "first_answers", "checks"]


class Progress(NamedTuple):
    """How far a deployment is: its engines first, then a first answer of every model, then the smoke checks."""

    ready_engines: int
    num_engines: int
    elapsed_s: float
    starting: tuple[str, ...] = ()
    """Models whose engines are not ready."""
    step: Step = "engines"
    num_asked: int = 0
    """Models that are asked for a first answer, or answers that are compared."""

    @property
    def line(self) -> str:
        """One line for people."""
        after = f"after {self.elapsed_s:.0f} s"
        if self.step == "engines":
            ready = f"{self.ready_engines} of {self.num_engines} {_engines(self.num_engines)} ready {after}"
            return f"{ready}; starting: {', '.join(self.starting)}" if self.starting else f"{ready}; opening the port"
        ready = f"all {self.num_engines} {_engines(self.num_engines)} ready {after}"
        if self.step == "first_answers":
            return f"{ready}; asking each of {self.num_asked} models once"
        return f"{ready}; comparing {self.num_asked} answers with those of the evaluation"


def _engines(number: int) -> str:
    return "engine" if number == 1 else "engines"


def is_news(progress: Progress, told: Progress | None, every_s: float) -> bool:
    """Whether a line about the progress is due: something changed, or nothing was told for so many seconds."""
    if told is None or progress.elapsed_s - told.elapsed_s >= every_s:
        return True
    return (progress.ready_engines, progress.starting, progress.step) != (told.ready_engines, told.starting, told.step)


def deploy(
    endpoints: Sequence[Endpoint],
    config: ServeConfig,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    log_dir: str | None = None,
    checker: "Checker | None" = None,
    smoke_checks: Sequence[SmokeCheck] = (),
) -> str:
    """Serve `endpoints` and return the base URL, without the trailing /v1.

    Args:
        endpoints: the models. Those on demand are listed, but neither started nor checked.
        config: how they are served.
        on_progress: called at every poll while the engines start, and before each step after it.
        log_dir: the Ray session's log folder, which errors name.
        checker: grades problems for the playground.
        smoke_checks: run last; where one fails, nothing is served.

    Raises:
        ValueError: the endpoints cannot be served as they are.
        ServeError: an engine or a smoke check failed, or the deadline passed; nothing is left running.
    """
    specs = group_engines(endpoints)
    clock = _Clock(time.monotonic(), on_progress)
    eager = {endpoint.name for spec in specs if not spec.is_on_demand for endpoint in spec.endpoints}
    checks = [check for check in smoke_checks if check.model in eager]
    api_key, config = _own_key(config.model_copy(update={"port": _running_port(config) or free_port(config)}))
    with _quiet_libraries():
        try:
            _start(endpoints, config, checker)
            _wait_for_engines(specs, config, clock, log_dir)
            _wait_for_listing([endpoint.name for endpoint in endpoints], config, api_key)
            # One token of each model loads its adapter, chat template and kernels, so that no user waits for them.
            clock.begin("first_answers", specs, len(eager))
            warm_up(base_url(config), sorted(eager), api_key)
            if checks:
                clock.begin("checks", specs, len(checks))
                run_smoke_checks(base_url(config), checks, api_key)
        except BaseException:  # also Ctrl-C: half-started engines would hold their memory
            undeploy()
            raise
    return base_url(config)


def undeploy() -> None:
    """Stop every engine that `deploy` started. Serve itself stays up, idle, until the Ray session ends."""
    with _quiet_libraries():
        from ray import serve as ray_serve

        ray_serve.delete(APP)


def base_url(config: ServeConfig) -> str:
    """Address for clients on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}"


class _Clock(NamedTuple):
    started: float
    on_progress: Callable[[Progress], None] | None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def report(self, ready: Sequence[EngineSpec], specs: Sequence[EngineSpec]) -> None:
        if self.on_progress is not None:
            waiting = [spec for spec in specs if spec not in ready and not spec.is_on_demand]
            starting = tuple(endpoint.name for spec in waiting for endpoint in spec.endpoints)
            up = sum(not spec.is_on_demand for spec in specs)
            self.on_progress(Progress(len(ready), up, self.elapsed_s, starting))

    def begin(self, step: Step, specs: Sequence[EngineSpec], num_asked: int) -> None:
        """A step after the start of the engines."""
        if self.on_progress is not None:
            up = sum(not spec.is_on_demand for spec in specs)
            self.on_progress(Progress(up, up, self.elapsed_s, step=step, num_asked=num_asked))


def _start(endpoints: Sequence[Endpoint], config: ServeConfig, checker: "Checker | None") -> None:
    from ray import serve as ray_serve
    from ray.exceptions import RayError

    try:
        ray_serve.start(http_options={"host": config.host, "port": config.port})
    except RayError as error:
        raise ServeError(
            f"Ray Serve did not start ({_last_line(str(error))}): if the machine is busy, try again when it is not"
        ) from error
    from serve.app import build_app  # start time: imports vLLM for seconds, while the controller and proxy start

    target = ray_serve.RunTarget(target=build_app(endpoints, config, checker), name=APP, route_prefix="/")
    ray_serve.run_many([target], wait_for_applications_running=False)


def _wait_for_engines(specs: Sequence[EngineSpec], config: ServeConfig, clock: _Clock, log_dir: str | None) -> None:
    from ray import serve as ray_serve

    while True:
        app = ray_serve.status().applications[APP]
        states = {spec.name: app.deployments.get(ENGINE_PREFIX + spec.name) for spec in specs}
        ready = _in_state(specs, states, {"HEALTHY"})
        clock.report(ready, specs)
        if app.status == "RUNNING":
            return
        failed = _in_state(specs, states, {"DEPLOY_FAILED", "UNHEALTHY"})
        if failed or app.status == "DEPLOY_FAILED":
            raise ServeError(_failure(failed, states, app.message, log_dir))
        if clock.elapsed_s > config.startup_deadline_s:
            late = [spec for spec in specs if spec not in ready]
            raise ServeError(_lateness(late, config, log_dir))
        time.sleep(POLL_S)


def _in_state(specs: Sequence[EngineSpec], states: Mapping[str, Any], wanted: Set[str]) -> list[EngineSpec]:
    # Serve lists a deployment a moment after the application.
    return [spec for spec in specs if (state := states[spec.name]) is not None and state.status in wanted]


def _failure(failed: Sequence[EngineSpec], states: Mapping[str, Any], message: str, log_dir: str | None) -> str:
    if not failed:
        return f"the server did not start: {_last_line(message)}"
    spec = failed[0]
    log = _engine_log(spec, log_dir)
    cause = _root_cause(log) or _last_line(states[spec.name].message)
    return f"the engine of {_describe(spec)} did not start: {cause}{_log_hint(log)}"


def _lateness(late: Sequence[EngineSpec], config: ServeConfig, log_dir: str | None) -> str:
    names = "; ".join(_describe(spec) for spec in late) or "the HTTP ingress"
    log = _engine_log(late[0], log_dir) if late else None
    return (
        f"not ready after {config.startup_deadline_s:g} s: {names}. "
        f"Serve fewer engines at once, or raise startup_deadline_s{_log_hint(log)}"
    )


def _describe(spec: EngineSpec) -> str:
    return f"{', '.join(endpoint.name for endpoint in spec.endpoints)} (weights: {spec.source})"


def _log_hint(log: str | None) -> str:
    return f". Its log: {log}" if log else ". Its log is in the Ray session's log folder"


def _engine_log(spec: EngineSpec, log_dir: str | None) -> str | None:
    """The newest output file of the engine's processes; Ray names such files by worker, not by actor."""
    if log_dir is None:
        return None
    marker = f":actor_name:ServeReplica:{APP}:{ENGINE_PREFIX}{spec.name}\n"
    found = [
        path for path in glob.glob(os.path.join(glob.escape(log_dir), "worker-*.out")) if marker in _read(path, 500)
    ]
    return max(found, key=os.path.getmtime, default=None)


def _read(path: str, limit: int = -1) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(limit)


def _root_cause(log: str | None) -> str | None:
    """The first exception in the engine's output; Serve's own message only refers to the log."""
    if log is None:
        return None
    found = re.findall(r"([A-Za-z_.]+(?:Error|Exception): .+)", _read(log))
    return found[0][:500] if found else None


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no reason given")


def _own_key(config: ServeConfig) -> tuple[str, ServeConfig]:
    """An API key for the checks after a deployment, where keys are required; never shown, valid for this deployment."""
    if not config.keys:
        return NO_KEY, config
    api_key = secrets.token_urlsafe(32)
    own = Key(name="deployment-checks", sha256=hash_key(api_key))
    return api_key, config.model_copy(update={"keys": (*config.keys, own)})


def _wait_for_listing(names: Sequence[str], config: ServeConfig, api_key: str) -> None:
    deadline = time.monotonic() + PROXY_GRACE_S
    while set(served_models(base_url(config), api_key)) != set(names):
        if time.monotonic() > deadline:
            raise ServeError(
                f"the engines run, but {base_url(config)} does not list them after {PROXY_GRACE_S:g} s: "
                "see the proxy's log in the Ray session's log folder"
            )
        time.sleep(POLL_S)


def _running_port(config: ServeConfig) -> int | None:
    """The port of a Serve instance that already runs in this Ray session; it cannot change."""
    client = running_client()
    if client is None:
        return None
    port = int(client.http_config.port)
    if config.port not in (0, port):
        raise ServeError(
            f"Ray Serve of this cluster listens on port {port}, not on {config.port}: set the port to {port} or 0, "
            "or stop Serve (`serve shutdown`)"
        )
    return port


def free_port(config: ServeConfig) -> int:
    """The config's port, or a free one for 0.

    Raises:
        ServeError: this machine has no such address, or one may not listen there, or another program does.
    """
    address = f"{config.host}:{config.port}"
    try:
        family, kind, _, _, where = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        remedy = "name an address of this machine with --host"
        raise ServeError(f"cannot listen on {address} ({error.strerror}): {remedy}") from error
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            raise ServeError(f"cannot listen on {address} ({error.strerror}): {_port_remedy(error)}") from error
        return int(probe.getsockname()[1])


def _port_remedy(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "name an address of this machine with --host"
    if error.errno == errno.EACCES:
        return "this user may not take a port below 1024: choose a higher one with --port"
    return "choose another port with --port, or 0 for a free one"


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep log lines of Ray and vLLM off the terminal, and restore the caller's logging afterwards.

    Importing ray.serve.llm replaces the handlers of the root logger by one that prints JSON, and Ray's loggers set
    their own levels at run time: only the global switch silences them all.
    """
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
