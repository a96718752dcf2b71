"""The informers of a replica: of the whole cluster, or of each namespace that it has rights in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.cache.store import ObjectStore
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.manager.event_handlers import EventHandlers

OnEvent = Callable[[str | None, Object], None]


@dataclass(frozen=True)
class InformerFactory:
    """Builds informers that share a client and the event handlers; of the namespaces None stands for all."""

    client: KubernetesClient
    handlers: EventHandlers
    namespaces: Sequence[str | None]

    def build_namespaces(self) -> list[Informer]:
        """Return the informer of the cluster's namespaces."""
        return self._build("namespaces", self.handlers.on_namespace_event, None)

    def build_children(self) -> list[Informer]:
        """Return the informers of Jobs, JobSets and pods."""
        handlers, cache = self.handlers, self.handlers.cache
        return [
            *self._build("jobs", handlers.on_job_event, cache.jobs),
            *self._build("jobsets", handlers.on_jobset_event, cache.jobsets, is_optional=True),
            *self._build("pods", handlers.on_pod_event, cache.pods),
        ]

    def build_workloads(self) -> list[Informer]:
        """Return the informers of Kueue's Workloads."""
        handlers = self.handlers
        on_event, store = handlers.on_kueue_workload_event, handlers.cache.kueue_workloads
        return self._build("workloads", on_event, store, is_optional=True)

    def build_tasks(self) -> list[Informer]:
        """Return the informers of tasks, and of Events about Jobs and pods.

        Deleted tasks that no watch showed are the resync's to find.
        """
        return [
            *self._build("tasks", self.handlers.on_task_event, None, is_optional=True),
            *self._build("job events", self.handlers.on_kube_event, None),
            *self._build("pod events", self.handlers.on_kube_event, None),
        ]

    def _build(
        self, kind: str, on_event: OnEvent, store: ObjectStore | None, *, is_optional: bool = False
    ) -> list[Informer]:
        """Return an informer for each namespace; `store` is pruned after each list."""

        def get_pruning(namespace: str | None) -> Callable[[set[str]], None]:
            return partial(self.handlers.prune_missing, store, namespace) if store is not None else lambda _: None

        return [
            Informer(self.client, kind, on_event, get_pruning(namespace), namespace=namespace, is_optional=is_optional)
            for namespace in self.namespaces
        ]
