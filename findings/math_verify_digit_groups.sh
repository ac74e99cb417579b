#!/usr/bin/env bash
# Math-Verify: groups of digits with a thin space between them are added.
#
# Expected: `1\,234` is 1234. A thin space between groups of three digits is the typesetting that ISO 80000-1 asks for,
#   and what LaTeX sources and models write; `1,234` and `1{,}234` are read as 1234.
# Behaviour: the groups are separate numbers, which are added like a mixed number: `1\,234` is read as 1 + 234. No error,
#   no warning.
# Consequence: a correct answer is graded wrong. As a reward or a filter of traces this teaches a model not to group
#   digits, or drops its traces with large numbers.
# Workaround here: `distill.grading` normalizes spaces between digit groups and compares numbers as exact fractions
#   before it asks Math-Verify.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    math-verify==0.9.0 latex2sympy2-extended==1.11.0 antlr4-python3-runtime==4.13.2 sympy==1.14.0

"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from math_verify import parse, verify

CASES = [(r"1,234", 1234), (r"1{,}234", 1234), (r"1\,234", 1234), (r"123\,456", 123456), (r"12\,345\,678", 12345678)]
SEEN = [True, True, False, False, False]

packages = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")
print("version:  ", ", ".join(f"{name} {version(name)}" for name in packages))
print("expected:  every spelling equals the number that it writes")
print(r"behaviour: with \, between groups of digits the groups are added")
print("output:")
results = []
for written, value in CASES:
    answer = parse(rf"The answer is \boxed{{{written}}}.")
    results.append(verify(parse(f"${value}$"), answer))
    print(f"  \\boxed{{{written}}} parses to {answer[0]}; equals {value}: {results[-1]}")
sys.exit(results != SEEN)
PYTHON

# Output on 2026-11-28 (Python 3.11, Linux x86-64):
#
# version:   math-verify 0.9.0, latex2sympy2-extended 1.11.0, antlr4-python3-runtime 4.13.2, sympy 1.14.0
# expected:  every spelling equals the number that it writes
# behaviour: with \, between groups of digits the groups are added
# output:
#   \boxed{1,234} parses to 1234; equals 1234: True
#   \boxed{1{,}234} parses to 1234; equals 1234: True
#   \boxed{1\,234} parses to 235; equals 1234: False
#   \boxed{123\,456} parses to 579; equals 123456: False
#   \boxed{12\,345\,678} parses to 1035; equals 12345678: False
