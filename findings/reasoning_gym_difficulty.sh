#!/usr/bin/env bash
# reasoning-gym: what a problem calls its difficulty is mostly the range that it was drawn from, the same for every problem.
#
# Expected: `metadata["difficulty"]` tells how hard this problem is, so that scores can be grouped by it.
# Behaviour: for many tasks it holds the configured range (a pair) under a name, whatever was drawn; the drawn value stands
#   beside it, under the same or another name, or nowhere. For other tasks the same field holds the value itself.
# Consequence: scores by difficulty have one group, without an error; code that is right for one task (knights_knaves) is
#   wrong for the next (chain_sum, leg_counting).
# Workaround here: `level` of a source takes a number or text, first of what the problem tells, then of its difficulty; a
#   range is refused with the names that can be taken.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25

"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import reasoning_gym


def told(task, **parameters):
    return [item["metadata"] for item in reasoning_gym.create_dataset(task, seed=1, size=50, **parameters)]


print("reasoning-gym", version("reasoning-gym"))
sums, legs, puzzles = told("chain_sum"), told("leg_counting"), told("knights_knaves", n_people=3)
ranges = {one["difficulty"]["num_terms"] for one in sums}
drawn = sorted({one["num_terms"] for one in sums})
print("chain_sum: difficulty num_terms", ranges, "of problems with", drawn, "terms")
assert ranges == {(2, 6)} and len(drawn) > 1
instances = {tuple(one["difficulty"]["num_instances"]) for one in legs}
print("leg_counting: difficulty num_instances", instances, "of", len({str(one["animals"]) for one in legs}), "different problems")
assert instances == {(1, 15)}
people = {one["difficulty"]["n_people"] for one in puzzles}
print("knights_knaves: difficulty n_people", people)
assert people == {3}
PYTHON
