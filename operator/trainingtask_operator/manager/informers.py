"""The informers of a replica: of all namespaces, or of each namespace that it has rights in."""

from collections.abc import Callable, Iterable
from functools import partial

from trainingtask_operator.cache.informer import Informer
from trainingtask_operator.cache.store import ObjectStore
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.manager.event_handlers import EventHandlers


def build_child_informers(
    client: KubernetesClient, handlers: EventHandlers, namespaces: Iterable[str | None]
) -> list[Informer]:
    """Return the informers of Jobs, JobSets and pods in these namespaces; None stands for all."""
    cache = handlers.cache
    kinds: list[tuple[str, Callable[[str | None, Object], None], ObjectStore]] = [
        ("jobs", handlers.on_job_event, cache.jobs),
        ("jobsets", handlers.on_jobset_event, cache.jobsets),
        ("pods", handlers.on_pod_event, cache.pods),
    ]
    return [
        Informer(
            client,
            kind,
            on_event,
            partial(handlers.prune_missing, store, namespace),
            namespace=namespace,
            is_optional=kind == "jobsets",
        )
        for namespace in namespaces
        for kind, on_event, store in kinds
    ]


def build_kueue_informers(
    client: KubernetesClient, handlers: EventHandlers, namespaces: Iterable[str | None]
) -> list[Informer]:
    """Return the informers of Kueue's Workloads in these namespaces; None stands for all."""
    store = handlers.cache.kueue_workloads
    return [
        Informer(
            client,
            "workloads",
            handlers.on_kueue_workload_event,
            partial(handlers.prune_missing, store, namespace),
            namespace=namespace,
            is_optional=True,
        )
        for namespace in namespaces
    ]


def build_task_informers(
    client: KubernetesClient, handlers: EventHandlers, namespaces: Iterable[str]
) -> list[Informer]:
    """Return the informers of what kopf watches in a whole cluster: tasks, and Events about Jobs and pods.

    Deleted tasks that no watch showed are the resync's to find, as they are with kopf.
    """
    kinds: list[tuple[str, Callable[[str | None, Object], None]]] = [
        ("tasks", handlers.on_task_event),
        ("job events", handlers.on_kube_event),
        ("pod events", handlers.on_kube_event),
    ]
    return [
        Informer(client, kind, on_event, lambda _: None, namespace=namespace, is_optional=True)
        for namespace in namespaces
        for kind, on_event in kinds
    ]
