"""HTML read back with the standard library's parser, as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br"}


@dataclass
class Node:
    name: str
    attributes: dict[str, str | None]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, name: str = "") -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if name in ("", child.name):
                    yield child
                yield from child.all(name)

    def one(self, name: str, **attributes: str) -> Node:
        nodes = [n for n in self.all(name) if attributes.items() <= n.attributes.items()]
        assert len(nodes) == 1, (name, attributes, len(nodes))
        return nodes[0]


class Tree(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), tag
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open.pop().name == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(text: str) -> Node:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert len(tree.open) == 1, "an element is not closed"
    return tree.open[0]


def table(page: Node, caption: str) -> tuple[list[str], list[list[Node]]]:
    """Headings and rows of cells of a table."""
    for node in page.all("table"):
        if node.one("caption").text == caption:
            rows = [[c for c in row.children if isinstance(c, Node)] for row in node.all("tr")]
            return [cell.text for cell in rows[0]], rows[1:]
    raise AssertionError(f"no table {caption!r}")


def column(page: Node, caption: str, heading: str) -> list[Node]:
    headings, rows = table(page, caption)
    return [row[headings.index(heading)] for row in rows]
