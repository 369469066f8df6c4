"""Reading the HTML that reports write."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "line", "circle", "polyline", "polygon"}


class Balanced(HTMLParser):
    """Fails on a tag that closes another than the last one opened; gathers text and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text.append(data)
