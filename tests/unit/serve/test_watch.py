"""What is told of engines while they serve. No server and no Ray."""

from serve.config import Endpoint, group_engines
from serve.watch import EngineWatch


def test_a_lost_engine_is_told_once_and_its_return_with_the_time_it_took() -> None:
    told: list[str] = []
    specs = group_engines([Endpoint(name="a@x", source="a"), Endpoint(name="b", source="b")])
    watch = EngineWatch(specs, told.append)
    for now, state in ((0.0, "HEALTHY"), (2.0, "UNHEALTHY"), (4.0, "UNHEALTHY"), (44.0, "HEALTHY"), (46.0, "HEALTHY")):
        watch.note({"engine:a-x": state, "engine:b": "HEALTHY", "ingress": "UNHEALTHY"}, now, "12:00:00")
    assert told == [
        "12:00:00 the engine of a@x was lost; another is starting, requests wait for it",
        "12:00:00 the engine of a@x is back after 42 s",
    ]


def test_an_engine_that_stops_for_want_of_requests_is_not_lost() -> None:
    told: list[str] = []
    watch = EngineWatch(group_engines([Endpoint(name="a", source="a")]), told.append)
    for state in ("HEALTHY", "DOWNSCALING", "UPSCALING", "UPDATING", "HEALTHY"):
        watch.note({"engine:a": state}, 0.0, "")
    watch.note({}, 0.0, "")
    assert told == []
