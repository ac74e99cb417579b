#!/usr/bin/env bash
# Math-Verify: numbers with a thin space between groups of digits are added or multiplied.
#
# Expected: `1\,234` is 1234. A thin space between groups of three digits is the typesetting that ISO 80000-1 asks for,
#   and what LaTeX sources and models write; `1,234` and `1{,}234` are read as 1234.
# Behaviour: the groups are separate numbers. Two integers become a mixed number, so a sum: `1\,234` is 1 + 234 = 235. A
#   group that is zero, or a group with decimals, makes it a product: `10\,000` is 10 * 0 = 0. No error, no warning.
# Consequence: a correct answer is graded wrong, and a wrong one right: reference 0 accepts `\boxed{10\,000}`. As a reward
#   or a filter of traces this teaches a model not to group digits, or drops its traces with large numbers.
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

CASES = [
    # written, its value, another value that must not match
    (r"1,234", 1234, 235),
    (r"1{,}234", 1234, 235),
    (r"1\,234", 1234, 235),
    (r"123\,456", 123456, 579),
    (r"12\,345\,678", 12345678, 1035),
    (r"10\,000", 10000, 0),
    (r"1\,000\,000", 1000000, 0),
]
SEEN = [(True, False)] * 2 + [(False, True)] * 5

packages = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")
print("version:  ", ", ".join(f"{name} {version(name)}" for name in packages))
print("expected:  every spelling equals the number that it writes, and no other one")
print(r"behaviour: with \, between groups of digits the groups are added or multiplied")
print("output:")
results = []
for written, value, other in CASES:
    answer = parse(rf"The answer is \boxed{{{written}}}.")
    results.append((verify(parse(f"${value}$"), answer), verify(parse(f"${other}$"), answer)))
    right, wrong = results[-1]
    print(f"  \\boxed{{{written}}} parses to {answer[0]}; equals {value}: {right}; equals {other}: {wrong}")
sys.exit(results != SEEN)
PYTHON

# Output on 2026-11-28 (Python 3.11, Linux x86-64):
#
# version:   math-verify 0.9.0, latex2sympy2-extended 1.11.0, antlr4-python3-runtime 4.13.2, sympy 1.14.0
# expected:  every spelling equals the number that it writes, and no other one
# behaviour: with \, between groups of digits the groups are added or multiplied
# output:
#   \boxed{1,234} parses to 1234; equals 1234: True; equals 235: False
#   \boxed{1{,}234} parses to 1234; equals 1234: True; equals 235: False
#   \boxed{1\,234} parses to 235; equals 1234: False; equals 235: True
#   \boxed{123\,456} parses to 579; equals 123456: False; equals 579: True
#   \boxed{12\,345\,678} parses to 1035; equals 12345678: False; equals 1035: True
#   \boxed{10\,000} parses to 10*0; equals 10000: False; equals 0: True
#   \boxed{1\,000\,000} parses to 1*0*0; equals 1000000: False; equals 0: True
