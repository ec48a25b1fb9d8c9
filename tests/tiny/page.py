"""What a page of halve's holds: its tags, its words, and what it plots."""

import json
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with their attributes, and text outside scripts."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.text, self.scripts, self._inside = [], "", [], ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data

    @property
    def plotted(self):
        """Traces that the page plots, by the name of the picture."""
        found = {}
        for script in self.scripts:
            if called := re.search(r'Plotly\.newPlot\(\s*"(\w+)",\s*(\[.*?\]),\s*(\{"template)', script, re.DOTALL):
                found[called[1]] = json.loads(called[2])
        return found

    def loads_nothing(self):
        """Whether nothing outside of the page is named, and the page forbids itself to load anything."""
        policy = next(a["content"] for tag, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        for tag, attrs in self.tags:
            assert tag not in ("link", "img", "iframe", "object")
            assert not {"src", "href"} & attrs.keys(), (tag, attrs)
        return True
