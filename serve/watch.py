"""What happens to a deployment's engines while it serves: replicas that are lost, and replaced."""

import time
from collections.abc import Callable, Mapping, Sequence

from serve.config import APP, ENGINE_PREFIX, EngineSpec

UNHEALTHY, HEALTHY = "UNHEALTHY", "HEALTHY"
"""States of a Serve deployment: a replica was lost and is not replaced yet; all are there. Others: it grows, shrinks or
is updated."""


class EngineWatch:
    """Tells of every replica that is lost, and when it is replaced."""

    def __init__(self, specs: Sequence[EngineSpec], tell: Callable[[str], None]) -> None:
        self._names = {ENGINE_PREFIX + spec.name: ", ".join(one.name for one in spec.endpoints) for spec in specs}
        self._tell = tell
        self._lost: dict[str, float] = {}

    def look(self) -> None:
        """Ask Serve for the engines' states, and tell what is new. Where it does not answer, the next look tells."""
        from ray import serve as ray_serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            app = ray_serve.status().applications.get(APP)
        except (RayError, RayServeException):  # its controller is being restarted
            return
        if app is not None:
            states = {name: str(one.status.value) for name, one in app.deployments.items()}
            self.note(states, time.monotonic(), time.strftime("%H:%M:%S"))

    def note(self, states: Mapping[str, str], now: float, clock: str) -> None:
        """Tell what is new in the deployments' states.

        Args:
            states: deployment -> its state, as Serve calls it.
            now: seconds of a monotonic clock.
            clock: the time as people read it.
        """
        for name, models in self._names.items():
            state = states.get(name)
            if state == UNHEALTHY and name not in self._lost:
                self._lost[name] = now
                self._tell(f"{clock} the engine of {models} was lost; another is starting, requests wait for it")
            if state == HEALTHY and name in self._lost:
                self._tell(f"{clock} the engine of {models} is back after {now - self._lost.pop(name):.0f} s")
