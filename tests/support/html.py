"""HTML read in tests: elements by the simple selectors that they use."""

import re
from typing import Any

import lxml.html

_PART = re.compile(r"(?P<tag>\*|[\w-]+)?(?P<rest>(?:[.#][\w-]+|\[[\w-]+(?:=(?:\"[^\"]*\"|[^\]\"]*))?\]|:last-child)*)$")
_CONDITION = re.compile(r"([.#])([\w-]+)|\[([\w-]+)(?:=\"?([^\]\"]*)\"?)?\]|(:last-child)")


def every(tree: Any, selector: str) -> list[Any]:
    """Return the elements below `tree` that fit: names, classes, ids, attributes, `>`, `:last-child` and commas."""
    return [element for one in selector.split(",") for element in tree.xpath(_xpath(one.strip()))]


def _xpath(selector: str) -> str:
    path, axis = ".", "//"
    for part in selector.split():
        if part == ">":
            axis = "/"
            continue
        found = _PART.match(part)
        if found is None:
            raise ValueError(f"{part!r} is more than a test's selector can say")
        path += axis + (found["tag"] or "*") + "".join(map(_predicate, _CONDITION.finditer(found["rest"])))
        axis = "//"
    return path


def _predicate(found: re.Match[str]) -> str:
    mark, name, attribute, value, last = found.groups()
    if last:
        return "[not(following-sibling::*)]"
    if mark == "#":
        return f"[@id='{name}']"
    if mark == ".":
        return f"[contains(concat(' ', normalize-space(@class), ' '), ' {name} ')]"
    return f"[@{attribute}]" if value is None else f"[@{attribute}='{value}']"


def page(client: Any, address: str, status: int = 200) -> Any:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return lxml.html.fromstring(answer.text)


def text(element: Any) -> str:
    return " ".join(element.text_content().split())


def names(tree: Any) -> list[str]:
    return [row.get("data-name") for row in every(tree, "tr[data-run]")]
