"""The latest state of watched objects. Finished ones are many and seldom read: they are kept compressed."""

import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from trainingtask_operator.kube_objects import Object


class ObjectStore(Mapping[Any, list[Any]]):
    """Objects by a key, which several may share.

    A finished task with the scores of 28 labels takes 40 KB as dictionaries and 2 KB compressed; reading it then costs
    0.1 ms, which happens once or twice after the task has finished.
    """

    def __init__(self, is_finished: Callable[[Object], bool] = lambda _: False) -> None:
        """Make a store that compresses the objects for which `is_finished` is true."""
        self._is_finished = is_finished
        self._items: dict[Hashable, dict[str, Any]] = {}  # key -> uid -> object, or its compressed form
        self._keys: dict[str, Hashable] = {}  # uid -> key

    def put(self, key: Hashable, uid: str, item: Any) -> None:
        """Store `item` under `key`, and drop the earlier object of this uid under whatever key."""
        if self._keys.get(uid, key) != key:
            self.remove(uid)
        self._keys[uid] = key
        stored = zlib.compress(to_json(item), level=1) if self._is_finished(item) else item
        self._items.setdefault(key, {})[uid] = stored

    def remove(self, uid: str) -> None:
        """Drop the object of this uid, if there is one."""
        key = self._keys.pop(uid, None)
        if key is not None:
            del self._items[key][uid]
            if not self._items[key]:
                del self._items[key]

    def get_key(self, uid: str) -> Any | None:
        """Return the key of the object of this uid, None if there is none."""
        return self._keys.get(uid)

    def get_unfinished(self, uid: str) -> Any | None:
        """Return the object of this uid, None if there is none or it is finished."""
        item = self._items[self._keys[uid]][uid] if uid in self._keys else None
        return None if isinstance(item, bytes) else item

    def has(self, uid: str) -> bool:
        """Return whether there is an object of this uid."""
        return uid in self._keys

    def uids(self) -> set[str]:
        """Return the uids of all objects."""
        return set(self._keys)

    def get_unfinished_keys(self) -> list[Any]:
        """Return the keys with an unfinished object."""
        return [key for key, items in self._items.items() if not all(isinstance(i, bytes) for i in items.values())]

    def __getitem__(self, key: Hashable) -> list[Any]:
        return [
            from_json(zlib.decompress(item)) if isinstance(item, bytes) else item for item in self._items[key].values()
        ]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
