"""Whether the report's page says what the records give."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from html.parser import HTMLParser

_UNSPOKEN = frozenset({"script", "style", "svg", "select"})
_PICTURES = "figures"  # a section of drawings: not text, and made anew with each report


class _Text(HTMLParser):
    """The text of a page by section, chunk by chunk."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections: dict[str, list[str]] = {}
        self._section = ""
        self._muted = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note which section begins."""
        if tag in ("section", "header", "nav"):
            self._section = dict(attrs).get("id") or tag
            self.sections.setdefault(self._section, [])
        self._muted += tag in _UNSPOKEN

    def handle_endtag(self, tag: str) -> None:
        """Note that one ends."""
        self._muted -= tag in _UNSPOKEN

    def handle_data(self, data: str) -> None:
        """Keep what is read."""
        text = " ".join(data.split())
        if text and not self._muted:
            self.sections.setdefault(self._section, []).append(text)


def wrong_words(written: str, derived: str) -> Iterator[str]:
    """Yield a line per stretch of text in which a page is not what was derived; figures apart."""
    ours, theirs = _Text(written).sections, _Text(derived).sections
    for name in theirs:
        if name in ours and name not in (_PICTURES, "nav"):
            yield from (f"section {name}: {what}" for what in _changed(ours[name], theirs[name]))


def missing_sections(written: str, derived: str) -> list[str]:
    """Return the sections that a page lacks: an earlier version of the program had them not."""
    ours = _Text(written).sections
    return [name for name in _Text(derived).sections if name not in (*ours, _PICTURES)]


def _changed(said: list[str], given: list[str]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(None, said, given, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        if b - a == d - c:
            for one, other in zip(said[a:b], given[c:d], strict=True):
                yield f"says {one!r}, the records give {other!r}"
        else:
            yield f"says {' '.join(said[a:b])!r}, the records give {' '.join(given[c:d])!r}"


def names_as_missing(written: str, spec_id: str) -> bool:
    """Whether a page says that a planned trial has no record."""
    return spec_id in _Text(written).sections.get("failed", [])
