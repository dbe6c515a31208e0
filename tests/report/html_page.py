"""A page of radvqa, parsed for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Start tags with attributes, tables as rows of cell texts by section, and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.tables, self._section, self._cell = [], [], {}, None, None
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)
        if tag == "section":
            self._section = values["id"]
        elif tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag in ("span", "br") and self._cell is not None:
            self._cell.append("|")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[self._section][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def row(self, section, first):
        return next(row for row in self.tables[section] if row[0].split("|")[0] == first)[1:]
