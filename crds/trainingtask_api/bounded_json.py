"""Parsing of objects from the API server, which may be nested deeper than a parser follows, or hold bytes that are no UTF-8.

The API server takes 10,000 levels [1]_, in `managedFields` of any object that a user creates and in fields without a schema.
jiter, pydantic's parser, follows 200, Python's `json` about 1,000 before Python 3.12 and 10,000 since. In the `managedFields`
of Kubernetes' own kinds it passes bytes on as they are. One such object must not keep a list from being read in which those of
all other namespaces stand.

.. [1] sigs.k8s.io/json, `maxNestingDepth`
"""

import re
from typing import Any

from pydantic_core import from_json

MAX_LEVELS = 100

_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def parse_json(content: bytes) -> Any:
    """Parse JSON.

    Where jiter cannot read it, bytes that are no UTF-8 become U+FFFD, and objects and arrays below `MAX_LEVELS` levels null.

    Raises
    ------
    ValueError
        When it is no JSON.
    """
    try:
        return from_json(content)
    except ValueError:
        return from_json(_cut(content.decode(errors="replace").encode()))


def _cut(content: bytes) -> bytes:
    level = kept = 0
    parts = []
    for token in _TOKENS.finditer(content):
        match token[0]:
            case b"{" | b"[":
                level += 1
                if level == MAX_LEVELS + 1:
                    parts += [content[kept : token.start()], b"null"]
            case b"}" | b"]":
                if level == MAX_LEVELS + 1:
                    kept = token.end()
                level -= 1
    return b"".join([*parts, content[kept:]])
