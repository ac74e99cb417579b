"""Waiting for machines that an autoscaler adds, and a queue that is offered them."""

from cluster.autoscaling import largest_per_worker, wait_until_feasible
from cluster.placement import Job, Resources

WIDE = Job("wide", Resources(cpus=1, gpus=1), num_workers=3)
NODE = Resources(cpus=8, gpus=2)


def test_the_wait_ends_when_every_job_would_fit_and_reports_once_what_it_is_for() -> None:
    looks, said = [[], [NODE], [NODE, NODE]], list[str]()
    assert wait_until_feasible([WIDE], lambda: looks.pop(0), deadline_s=10, report=said.append, poll_s=0)
    assert not looks and len(said) == 1
    assert "wide needs 3 x (1 CPU + 1 GPU)" in said[0]


def test_the_wait_ends_at_its_deadline() -> None:
    assert not wait_until_feasible([WIDE], lambda: [NODE], deadline_s=0.05, report=lambda text: None, poll_s=0.01)


def test_nodes_are_requested_for_the_largest_job_of_each_kind_of_worker() -> None:
    small, other = WIDE._replace(name="small", num_workers=1), Job("other", Resources(cpus=1, gpus=1, gpu="L4"), 2)
    assert largest_per_worker([small, WIDE, other]) == [WIDE, other]
