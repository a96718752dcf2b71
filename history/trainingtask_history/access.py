"""The scope of runs that a principal may read; part of each SQL statement, so that a forbidden run is not found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, false, true

from trainingtask_history.tables import RUNS


@dataclass(frozen=True)
class AccessScope:
    """The namespaces whose runs may be read.

    Attributes
    ----------
    namespace_uids
        Uids of the namespaces, None for all.
    names
        Name by uid, None where the names are unknown.
    """

    namespace_uids: frozenset[str] | None
    names: Mapping[str, str] | None = field(default=None, compare=False)

    def narrow_to(self, name: str | None) -> "AccessScope":
        """Return the part of this scope that can belong to a namespace of that name; None for any name."""
        if self.namespace_uids is None or self.names is None or name is None:
            return self
        return AccessScope(frozenset(uid for uid in self.namespace_uids if self.names.get(uid) == name), self.names)

    def as_condition(self) -> ColumnElement[bool]:
        """Return the condition on the table of runs."""
        if self.namespace_uids is None:
            return true()
        uids = sorted(self.namespace_uids)
        if not uids:
            return false()
        return RUNS.c.namespace_uid == uids[0] if len(uids) == 1 else RUNS.c.namespace_uid.in_(uids)


ALL = AccessScope(None)
