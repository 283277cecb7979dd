"""Figures as parts of one HTML file: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import re


def svg_element(svg: str, prefix: str, label: str) -> str:
    """Return matplotlib's SVG as an element that stands in a page beside others.

    Ids are unique in a page, and matplotlib numbers each figure from one: every id gets a prefix.

    Args:
        svg: The whole file.
        prefix: Different for each figure of a page; letters, digits, hyphen.
        label: What it shows, for readers that do not see it; must be escaped for an attribute.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    return body.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def png_uri(png: bytes) -> str:
    """Return a PNG as a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
