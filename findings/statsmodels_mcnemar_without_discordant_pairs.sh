#!/usr/bin/env bash
# statsmodels: McNemar's asymptotic test calls two models that agree on every item different, with p = 0.
#
# Expected: without a discordant pair there is no evidence of a difference: p = 1, as the exact test says.
# Behaviour: with `exact=False` and the continuity correction, which is the default, the statistic is
#   (|0 - 0| - 1)^2 / (0 + 0), which is infinite, and the p-value is 0.0. One RuntimeWarning about a division, no error.
# Consequence: in a table of many models or checkpoints, where `exact=False` is chosen for speed or by sample size, the
#   pairs that agree on every item are the most significant ones, and they survive any correction for multiple tests.
# Workaround here: `distill.evaluate.statistics.mcnemar_p` returns 1 without discordant pairs, and the exact test otherwise.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check statsmodels==0.15.0

"$folder/venv/bin/python" -W ignore::RuntimeWarning - <<'PYTHON'
import sys
from importlib.metadata import version

from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

AGREE = [[80, 0], [0, 20]]  # both right on 80 items, both wrong on 20
DIFFER = [[70, 12], [6, 12]]

print("version:   statsmodels", version("statsmodels"))
print("expected:  p = 1 for two models that agree on every item, whatever the variant of the test")
print("behaviour: p = 0 with exact=False and the default continuity correction")
print("output:")
exact, corrected = mcnemar(AGREE, exact=True).pvalue, mcnemar(AGREE, exact=False).pvalue
print(f"  agree on all 100 items: exact=True p = {exact:.3g}; exact=False p = {corrected:.3g}")
usual = mcnemar(DIFFER, exact=False).pvalue
adjusted = multipletests([corrected, usual], method="holm")[1]
print(f"  18 discordant items:    exact=False p = {usual:.3g}; after Holm: {adjusted[0]:.3g} and {adjusted[1]:.3g}")
sys.exit(not (exact == 1.0 and corrected == 0.0 and adjusted[0] == 0.0))
PYTHON

# Output on 2026-11-28 (Python 3.11, Linux x86-64):
#
# version:   statsmodels 0.15.0
# expected:  p = 1 for two models that agree on every item, whatever the variant of the test
# behaviour: p = 0 with exact=False and the default continuity correction
# output:
#   agree on all 100 items: exact=True p = 1; exact=False p = 0
#   18 discordant items:    exact=False p = 0.239; after Holm: 0 and 0.239
