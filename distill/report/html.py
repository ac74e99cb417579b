"""The report as one self-contained HTML page: everything inline, nothing fetched, everything from data escaped."""

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from distill.report import formats
from distill.report.answering import answering_words, equal_words
from distill.report.data import Report
from distill.report.figures import all_plots
from distill.report.languages import language_words
from distill.report.level_table import choice_words, level_table
from distill.report.mathml import with_mathematics
from distill.report.quantised_words import quantised_words
from distill.report.searches import search_words
from distill.report.unequal_steps import steps_words


def render_page(report: Report) -> str:
    """The page, the same bytes for the same report."""
    script = _asset("report.js.j2")
    plots = {name: Markup(svg) for name, svg in all_plots(report).items()}
    page = _environment().get_template("report.html.j2")
    # The content security policy allows the one script by its hash: markup in a completion could not run anything
    # even if it got past the escaping.
    html: str = page.render(
        report=report,
        plots=plots,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(_asset("report.css")),
    )
    return html


def ticks(text: str) -> Markup:
    """Escaped text; what is between back quotes becomes code."""
    parts = str(escape(text)).split("`")
    # With an odd number of back quotes one has no partner: then none of them is markup.
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)))


@cache  # compiling the page takes longer than filling it
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("distill.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        formats.percent,
        formats.bounds,
        formats.share_of,
        formats.points,
        formats.number,
        formats.signed,
        formats.power,
        formats.usd,
        formats.duration,
        formats.size,
        formats.p_value,
        formats.served_name,
        formats.gap_name,
        answering_words,
        equal_words,
        language_words,
        level_table,
        choice_words,
        steps_words,
        quantised_words,
        search_words,
    )
    environment.filters |= {one.__name__: one for one in filters} | {"ticks": ticks, "mathematics": with_mathematics}
    return environment


def _asset(name: str) -> str:
    return resources.files("distill.report").joinpath("templates", name).read_text(encoding="utf-8")
