"""What the templates of all pages share: escaping, and how numbers are written for people."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jinja2
from markupsafe import Markup

MINUS = "−"


def open_templates(*folders: Path) -> jinja2.Environment:
    """Return the templates of the folders; text is escaped, and a name that is not there is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "score": partial(render_number, form=".4f"),
        "accuracy": partial(render_number, form=".3f"),
        "count": partial(render_number, form=",.0f"),
        "one_digit": partial(render_number, form=",.1f"),
        "percent": partial(render_number, form=".1%"),
        "signed": partial(render_number, form="+.4f"),
        "interval": render_interval,
        "duration": render_duration,
    }
    return templates


def render_number(value: float | None, form: str) -> Markup:
    """Return the rounded number for people; the exact one stands in the element's `value`."""
    if value is None:
        return Markup('<span class="none">none</span>')
    text = format(value, form).replace("%", " %").replace("-", MINUS)
    return Markup('<data value="{}">{}</data>').format(value, text)


def render_interval(interval: Sequence[float] | None, form: str = ".4f") -> Markup:
    """Return both ends, as in `0.7811 to 0.8203`; nothing where there is no interval."""
    if interval is None:
        return Markup("")
    return Markup("{} to {}").format(*(render_number(end, form) for end in interval))


def render_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
