import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from support.http_server import Answer, HttpServer, Request
from support.object_store import Bucket, clear_credentials
from support.ports import free_port
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault, Interrupted, UserError
from trainingtask_trainer.storage import object_store
from trainingtask_trainer.storage.object_store import ObjectStore, StoredObject


def make_store(uri: str) -> ObjectStore:
    return ObjectStore(uri, "dataset.uri")


def read_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def xml_error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def test_a_prefix_is_downloaded_with_its_folders(bucket: Bucket, tmp_path: Path) -> None:
    files = {f"train/part-{number}.csv": f"text {number}".encode() for number in range(30)} | {"test.csv": b"a test"}
    bucket.put({f"data/set/{name}": content for name, content in files.items()} | {"data/settings": b"another"})
    store = make_store(f"{bucket.uri}/data/set")
    objects = store.find()
    read: list[int] = []
    store.download(objects, tmp_path, read.append)
    assert read_folder(tmp_path) == files
    assert sum(read) == sum(map(len, files.values()))
    assert [entry.name for entry in objects] == sorted(files)
    assert all(entry.etag and entry.size == len(files[entry.name]) for entry in objects)


@pytest.mark.parametrize("key", ["train.csv", "a folder/ü %20#?.csv"])
def test_an_object_is_found_by_its_name(key: str, bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({key: b"text", f"{key}/more.csv": b"under the same name"})
    store = make_store(f"{bucket.uri}/{key}")
    found = store.find()
    assert [entry.name for entry in found] == [Path(key).name]
    store.download(found, tmp_path)
    assert read_folder(tmp_path) == {Path(key).name: b"text"}


def test_a_slash_at_the_end_asks_for_a_prefix(bucket: Bucket) -> None:
    bucket.put({"data": b"an object", "data/train.csv": b"text"})
    assert [entry.name for entry in make_store(f"{bucket.uri}/data/").find()] == ["train.csv"]


def test_a_whole_bucket_is_a_prefix(bucket: Bucket) -> None:
    bucket.put({"a/b.csv": b"text"})
    assert [entry.name for entry in make_store(bucket.uri).find()] == ["a/b.csv"]


def test_empty_objects_that_stand_for_folders_are_no_files(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({"data/": b"", "data/train/": b"", "data/train/1.csv": b"text", "data/empty.csv": b""})
    store = make_store(f"{bucket.uri}/data")
    store.download(store.find(), tmp_path)
    assert read_folder(tmp_path) == {"train/1.csv": b"text", "empty.csv": b""}


@pytest.mark.parametrize("key", ["data/../../escaped", "data//absolute", "data/a//b", "data/./here", "data/a\x01b"])
def test_keys_that_are_no_file_names_are_refused(key: str, bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({key: b"content", "data/train.csv": b"text"})
    store = make_store(f"{bucket.uri}/data")
    with pytest.raises(UserError, match=r"dataset.uri 's3://a-bucket/data'.* cannot be the name of a file"):
        store.download(store.find(), tmp_path)
    assert read_folder(tmp_path) == {}


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../b", "", "a" * 256, "a\nb", "..", "a/"])
def test_names_of_a_listing_never_leave_the_folder(name: str, bucket: Bucket, tmp_path: Path) -> None:
    listed = StoredObject(name, 1, None, None, "key")
    with pytest.raises(UserError, match="cannot be the name of a file") as raised:
        make_store(bucket.uri).download([listed], tmp_path / "inside")
    assert raised.value.reason == Reason.SOURCE_NOT_FOUND
    assert read_folder(tmp_path) == {}


def test_a_file_that_is_a_folder_as_well_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({"data/a": b"a file", "data/a/b": b"a file in it"})
    store = make_store(f"{bucket.uri}/data")
    with pytest.raises(UserError, match="'a' cannot be the name of a file beside the others"):
        store.download(store.find(), tmp_path)


def test_an_object_that_changed_since_the_listing_is_a_fault(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({"train.csv": b"before"})
    store = make_store(f"{bucket.uri}/train.csv")
    found = store.find()
    bucket.put({"train.csv": b"after!"})
    with pytest.raises(Fault, match=r"'train.csv' was changed while it was read") as raised:
        store.download(found, tmp_path)
    assert raised.value.reason == Reason.SOURCE_UNAVAILABLE


def test_versions_of_objects_are_returned(bucket: Bucket, tmp_path: Path) -> None:
    bucket.client.create_bucket(Bucket="versioned")
    bucket.client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    version = bucket.client.put_object(Bucket="versioned", Key="train.csv", Body=b"text")["VersionId"]
    store = make_store("s3://versioned/train.csv")
    assert [entry.version for entry in store.download(store.find(), tmp_path)] == [version]


def test_a_missing_object_names_its_neighbours(bucket: Bucket) -> None:
    bucket.put({"data/train.csv": b"text", "data/old/train.csv": b"text"})
    with pytest.raises(UserError) as raised:
        make_store(f"{bucket.uri}/data/trian.csv").find()
    assert raised.value.reason == Reason.SOURCE_NOT_FOUND
    assert str(raised.value) == (
        "dataset.uri 's3://a-bucket/data/trian.csv': there is no object of that name, and none under it; "
        "'a-bucket/data' holds old/, train.csv"
    )


def test_a_missing_bucket_is_named(bucket: Bucket) -> None:
    for use in (lambda store: store.find(), lambda store: store.list(), lambda store: store.write("a", b"")):
        with pytest.raises(UserError, match=r"'s3://no-bucket/data': there is no bucket 'no-bucket'$") as raised:
            use(make_store("s3://no-bucket/data"))
        assert raised.value.reason == Reason.SOURCE_NOT_FOUND


def test_small_objects_are_written_read_and_deleted(bucket: Bucket) -> None:
    store = make_store(f"{bucket.uri}/out")
    store.write("a/manifest.json", b"{}")
    store.write("a/manifest.json", b"[]")
    store.write("b", b"1")
    assert store.read("a/manifest.json", 2) == b"[]"
    assert [entry.name for entry in store.list("a")] == ["a/manifest.json"]
    with pytest.raises(UserError, match=r"'a/manifest.json' has more than the 1 bytes expected"):
        store.read("a/manifest.json", 1)
    store.delete(["a/manifest.json", "never-there"])
    assert bucket.read() == {"out/b": b"1"}
    with pytest.raises(UserError, match=r"there is no object 'a/manifest.json'"):
        store.read("a/manifest.json", 2)


@pytest.mark.parametrize("size", [0, 1, 2 * object_store._UPLOAD_CHUNK + 1])
def test_files_are_uploaded_in_parts(size: int, bucket: Bucket, tmp_path: Path) -> None:
    content = os.urandom(size)
    (tmp_path / "weights").write_bytes(content)
    make_store(f"{bucket.uri}/out").upload(tmp_path / "weights", "model/weights")
    assert bucket.read() == {"out/model/weights": content}


def test_a_missing_local_file_is_no_missing_object(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        make_store(f"{bucket.uri}/out").upload(tmp_path / "nothing", "weights")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (xml_error(403, "AccessDenied"), r"\(the server answers 403 AccessDenied\): pass AWS_ACCESS_KEY_ID, .* spec.env"),
        (xml_error(403, "InvalidAccessKeyId"), "403 InvalidAccessKeyId"),
        (xml_error(401, "Unauthorized"), "401 Unauthorized"),
        (xml_error(400, "ExpiredToken"), "400 ExpiredToken"),
        (xml_error(400, "AuthorizationHeaderMalformed"), "'bucket' is in another region: pass its region as AWS_REGION"),
        (Answer(301), "'bucket' is in another region"),
    ],
)  # fmt: skip
def test_refused_requests_are_mistakes(answer: Answer, cause: str, broken_store: HttpServer) -> None:
    broken_store.answer = lambda _: answer
    for use in (lambda store: store.list(), lambda store: store.read("a", 1), lambda store: store.write("a", b"")):
        with pytest.raises(UserError, match=rf"^dataset.uri 's3://bucket/data': .*{cause}") as raised:
            use(make_store("s3://bucket/data"))
        assert raised.value.reason == Reason.SOURCE_DENIED


@pytest.mark.parametrize("code", [(500, "InternalError"), (503, "SlowDown"), (429, "TooManyRequests")])
def test_failing_servers_are_faults_after_retries(code: tuple[int, str], broken_store: HttpServer) -> None:
    broken_store.answer = lambda _: xml_error(*code)
    for use in (lambda store: store.list(), lambda store: store.read("a", 1), lambda store: store.write("a", b"")):
        broken_store.requests.clear()
        with pytest.raises(
            Fault, match=rf"could not be used for \d+ s \(the server answers {code[0]} {code[1]}\)"
        ) as raised:
            use(make_store("s3://bucket/data"))
        assert raised.value.reason == Reason.SOURCE_UNAVAILABLE
        assert len(broken_store.requests) == 4


def test_an_upload_that_was_too_slow_is_a_fault(broken_store: HttpServer) -> None:
    broken_store.answer = lambda _: xml_error(400, "RequestTimeout")
    with pytest.raises(Fault, match=r"the server answers 400 RequestTimeout"):
        make_store("s3://bucket/data").write("a", b"")


def test_a_server_that_is_back_in_time_is_no_fault(broken_store: HttpServer) -> None:
    broken_store.answer = lambda _: (
        Answer(503)
        if len(broken_store.requests) < 3
        else Answer(body=b"text", headers={"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"})
    )
    assert make_store("s3://bucket/data").read("a", 9) == b"text"


def test_a_refused_connection_is_a_fault(broken_store: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Fault, match=r"\(Connection refused\)"):
        make_store("s3://bucket/data").list()


def test_broken_downloads_are_resumed(broken_store: HttpServer, tmp_path: Path) -> None:
    body = os.urandom(100_000)
    ranges: list[str | None] = []

    def answer(request: Request) -> Answer:
        ranges.append(wanted := request.headers.get("range"))
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        headers = {"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Answer(206 if wanted else 200, body[start:], headers, cut=40_000)

    broken_store.answer = answer
    make_store("s3://bucket").download([StoredObject("a", len(body), '"1"', None, "a")], tmp_path)
    assert (tmp_path / "a").read_bytes() == body
    assert len(ranges) == 3
    assert all(request.headers["if-match"] == '"1"' for request in broken_store.requests)


@pytest.mark.parametrize("listed", [5, 50])
def test_a_body_of_another_size_than_listed_is_a_fault(listed: int, broken_store: HttpServer, tmp_path: Path) -> None:
    broken_store.answer = lambda _: Answer(
        body=b"0123456789", headers={"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    )
    with pytest.raises(Fault, match=f"'a' has 10 bytes, but was listed with {listed}"):
        make_store("s3://bucket").download([StoredObject("a", listed, '"1"', None, "a")], tmp_path)


def test_a_check_ends_requests_that_are_retried(broken_store: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise Interrupted("SIGTERM")

    monkeypatch.undo()
    clear_credentials(monkeypatch)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Interrupted):  # not after the three minutes of the retries
        ObjectStore("s3://bucket/data", "dataset.uri", check=interrupt).list()


def test_a_metadata_server_that_starts_after_the_pod_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_credentials(monkeypatch)
    answers = iter([ConnectionRefusedError(), ConnectionRefusedError()])

    def connect(*_: object, **__: object) -> socket.socket:
        if (error := next(answers, None)) is not None:
            raise error
        return socket.socket()

    monkeypatch.setattr(object_store.socket, "create_connection", connect)
    make_store("s3://bucket/data")
    assert next(answers, None) is None


def test_the_credentials_of_a_laptop_are_no_missing_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_credentials(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(object_store.METADATA_HOSTS, "gs", "no-metadata.invalid")
    file = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    file.parent.mkdir(parents=True)
    user = {"client_id": "a", "client_secret": "b", "refresh_token": "c", "type": "authorized_user"}
    file.write_text(json.dumps(user))
    make_store("gs://bucket/data")


@pytest.mark.parametrize("uri", ["s3://bucket/data", "gs://bucket/data", "az://container/data"])
def test_missing_credentials_are_a_mistake(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_credentials(monkeypatch)
    scheme = uri.partition(":")[0]
    monkeypatch.setitem(object_store.METADATA_HOSTS, scheme, "no-metadata.invalid")
    monkeypatch.setattr(object_store, "_METADATA_SECONDS", 0.5)
    with pytest.raises(
        UserError, match=rf"'{uri}': access is refused \(no credentials were found\): pass (A|G)"
    ) as raised:
        make_store(uri)
    assert raised.value.reason == Reason.SOURCE_DENIED


@pytest.mark.parametrize(
    ("uri", "variables", "cause"),
    [
        ("az://container/data", {"AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"}, "cannot be used as they are"),
        ("az://container/data", {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_ACCOUNT_KEY": "s&cret"}, "cannot be used as they are"),
        ("gs://bucket/data", {"GOOGLE_SERVICE_ACCOUNT_KEY": "s&cret"}, "cannot be used as they are"),
        ("s3://bucket/data", {"AWS_ACCESS_KEY_ID": "s&cret"}, "cannot be used as they are"),
    ],
)  # fmt: skip
def test_unusable_credentials_are_not_shown(
    uri: str, variables: dict[str, str], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_credentials(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=cause) as raised:
        make_store(uri).list()
    assert raised.value.reason == Reason.SOURCE_DENIED
    assert "cret" not in str(raised.value)


def test_a_download_larger_than_the_disk_does_not_start(bucket: Bucket, tmp_path: Path) -> None:
    listed = StoredObject("a", 2**62, None, None, "a")
    with pytest.raises(Fault, match=r"has 4294967296.0 GiB, and the disk of .* free") as raised:
        make_store(bucket.uri).download([listed], tmp_path)
    assert raised.value.reason == Reason.NO_SPACE_LEFT


def test_http_needs_an_endpoint_that_says_so(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{bucket.port}")
    monkeypatch.setattr(object_store, "RETRY", {"max_retries": 0})
    with pytest.raises(Fault, match="could not be used"):
        make_store(bucket.uri).list()


def test_gcs_is_spoken_to_an_endpoint_of_its_own(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The XML API of GCS is S3's but for signatures, which neither server checks here."""
    clear_credentials(monkeypatch)
    monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{bucket.port}")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "a-token")
    bucket.client.create_bucket(Bucket="gcs")
    content = os.urandom(object_store._UPLOAD_CHUNK + 1)
    (tmp_path / "weights").write_bytes(content)
    (tmp_path / "out").mkdir()
    store = make_store("gs://gcs/out")
    store.upload(tmp_path / "weights", "model/weights")
    store.write("model/manifest.json", b"{}")
    store.download(store.find(), tmp_path / "out")
    assert (tmp_path / "out" / "model" / "weights").read_bytes() == content
    store.delete(["model/weights", "never-there"])
    assert replace(bucket, name="gcs").read() == {"out/model/manifest.json": b"{}"}
    with pytest.raises(UserError, match="there is no bucket 'nobucket'"):
        make_store("gs://nobucket/data").find()


def test_stores_are_reached_through_the_proxy_of_the_environment(
    broken_store: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_store.answer = lambda _: Answer(body=b"<ListBucketResult/>")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example.com")
    monkeypatch.setenv("HTTP_PROXY", broken_store.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert make_store("s3://bucket").list() == []
    assert broken_store.requests[0].path.startswith("http://store.example.com/bucket?list-type=2")
