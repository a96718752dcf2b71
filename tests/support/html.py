"""HTML in tests: elements by simple CSS selectors."""

import re
from typing import Any

import lxml.html

_PART = re.compile(r"(?P<tag>\*|[\w-]+)?(?P<rest>(?:[.#][\w-]+|\[[\w-]+(?:=(?:\"[^\"]*\"|[^\]\"]*))?\]|:last-child)*)$")
_CONDITION = re.compile(r"([.#])([\w-]+)|\[([\w-]+)(?:=\"?([^\]\"]*)\"?)?\]|(:last-child)")


def select(tree: Any, selector: str) -> list[Any]:
    """Return the elements below `tree` that match: names, classes, ids, attributes, `>`, `:last-child` and commas."""
    return [element for one in selector.split(",") for element in tree.xpath(_to_xpath(one.strip()))]


def _to_xpath(selector: str) -> str:
    path, axis = ".", "//"
    for part in selector.split():
        if part == ">":
            axis = "/"
            continue
        found = _PART.match(part)
        if found is None:
            raise ValueError(f"{part!r} is not supported in a selector")
        path += axis + (found["tag"] or "*") + "".join(map(_to_predicate, _CONDITION.finditer(found["rest"])))
        axis = "//"
    return path


def _to_predicate(found: re.Match[str]) -> str:
    mark, name, attribute, value, last = found.groups()
    if last:
        return "[not(following-sibling::*)]"
    if mark == "#":
        return f"[@id='{name}']"
    if mark == ".":
        return f"[contains(concat(' ', normalize-space(@class), ' '), ' {name} ')]"
    return f"[@{attribute}]" if value is None else f"[@{attribute}='{value}']"


def get_page(client: Any, address: str, status: int = 200) -> Any:
    """Return the parsed page of an address."""
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return lxml.html.fromstring(answer.text)


def get_text(element: Any) -> str:
    """Return the text of an element with single spaces."""
    return " ".join(element.text_content().split())


def list_names(tree: Any) -> list[str]:
    """Return the names of the listed runs."""
    return [row.get("data-name") for row in select(tree, "tr[data-run]")]
