"""Objects by key and uid, compressed once they are finished."""

from typing import Any

from trainingtask_operator.cache.store import ObjectStore


def task(uid: str, state: str = "Running", **training: Any) -> dict[str, Any]:
    metadata = {"uid": uid, "resourceVersion": "1", "name": "t", "namespace": "n"}
    return {"metadata": metadata, "spec": {"a": [1, 2]}, "status": {"state": state, "training": training}}


def is_finished(item: dict[str, Any]) -> bool:
    return bool(item["status"]["state"] == "Succeeded")


def test_a_finished_object_is_compressed_and_reads_as_before() -> None:
    store = ObjectStore(is_finished)
    store.put("k", "1", task("1"))
    assert (store.get_unfinished_keys(), store.get_unfinished("1")) == (["k"], task("1"))
    store.put("k", "1", task("1", "Succeeded", loss=0.25))
    assert (store.get_unfinished_keys(), store.get_unfinished("1"), store.has("1")) == ([], None, True)
    assert store["k"] == [task("1", "Succeeded", loss=0.25)]


def test_an_object_that_changes_its_key_is_under_the_new_key_alone() -> None:
    store = ObjectStore()
    store.put("a", "1", task("1"))
    store.put("a", "2", task("2"))
    store.put("b", "1", task("1"))
    assert (store["a"], store["b"], store.uids()) == ([task("2")], [task("1")], {"1", "2"})
    for uid in ("1", "2", "2", "absent"):
        store.remove(uid)
    assert (len(store), store.uids(), store.get("a", [])) == (0, set(), [])
