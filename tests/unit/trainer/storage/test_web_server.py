import os
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from support.http_server import Answer, HttpServer, Request, serve_http, write_certificate
from support.object_store import clear_credentials
from support.ports import free_port
from trainingtask_api.names import ENV_ALLOW_PRIVATE_REDIRECTS
from trainingtask_api.reasons import Reason
from trainingtask_api.status import SourceObject
from trainingtask_trainer.errors import Fault, Interrupted, UserError
from trainingtask_trainer.storage import web_server
from trainingtask_trainer.storage.object_store import ObjectStore
from trainingtask_trainer.storage.web_server import download_file

BODY = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "FIRST_PAUSE", 0.05)


@pytest.fixture
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "RETRY_SECONDS", 1)


@pytest.fixture
def private_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_ALLOW_PRIVATE_REDIRECTS, "true")


def download(url: str, folder: Path, on_bytes: Callable[[int, int | None], None] = lambda *_: None) -> SourceObject:
    return download_file(url, "dataset.uri", folder, on_bytes)


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status, headers={"Location": location})


def test_a_file_is_downloaded_under_its_name(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: Answer(body=BODY, headers={"ETag": '"v1"'})
    seen: list[tuple[int, int | None]] = []
    read = download(f"{http_server.url}/a/my%20rows.csv?token=s3cret", tmp_path, lambda *at: seen.append(at))
    assert read == SourceObject(name="my rows.csv", size=len(BODY), etag='"v1"')
    assert (tmp_path / "my rows.csv").read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert http_server.requests[0].path == "/a/my%20rows.csv?token=s3cret"


@pytest.mark.parametrize("path", ["", "/", "/a/..%2f", "/%2e%2e", "/a%0Ab", "/" + "a" * 256])
def test_a_url_must_name_a_file(path: str, http_server: HttpServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its path must end in the name of a file") as raised:
        download(f"{http_server.url}{path}", tmp_path)
    assert raised.value.reason == Reason.SOURCE_NOT_FOUND
    assert not http_server.requests


def test_an_escaped_slash_in_a_name_is_no_folder(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: Answer(body=b"text")
    assert download(f"{http_server.url}/a%252Fb.csv", tmp_path).name == "a%2Fb.csv"


@pytest.mark.parametrize("host", ["host:abc", "[::1", "a..b", "a" * 64 + ".example"])
def test_a_host_that_cannot_be_one_is_the_users_mistake(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="correct") as raised:
        download(f"https://{host}/rows.csv?token=s3cret", tmp_path)
    assert raised.value.reason == Reason.SOURCE_NOT_FOUND
    assert "s3cret" not in str(raised.value)


def test_a_redirect_to_a_host_that_cannot_be_one_is_refused(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: redirect("http://a..b/rows.csv")
    with pytest.raises(UserError, match="the one that it redirects to"):
        download(f"{http_server.url}/rows.csv", tmp_path)


@pytest.mark.parametrize("validator", [{"ETag": '"v1"'}, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_broken_download_is_resumed(validator: dict[str, str], http_server: HttpServer, tmp_path: Path) -> None:
    def answer(request: Request) -> Answer:
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        part = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if start else {}
        return Answer(206 if start else 200, BODY[start:], validator | part, cut=1_200_000)

    http_server.answer = answer
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == BODY
    assert [request.headers.get("if-range") for request in http_server.requests] == [
        None,
        *validator.values(),
        *validator.values(),
    ]


ANOTHER_PART = {"Content-Range": "bytes 2000-2999/3000", "ETag": '"v2"'}


@pytest.mark.parametrize(
    "second",
    [
        Answer(200, BODY),
        Answer(416),
        Answer(206, BODY[:9], {"Content-Range": "bytes 0-8/9"}),
        # Servers that know ranges, and no If-Range.
        Answer(206, b"new" * 333 + b"n", ANOTHER_PART),
        Answer(206, BODY[2000:], {"Content-Range": f"bytes 2000-{len(BODY) - 1}/{len(BODY)}"}),
    ],
)
def test_a_file_that_changed_meanwhile_is_read_anew(second: Answer, http_server: HttpServer, tmp_path: Path) -> None:
    answers = iter([Answer(200, b"old" * 1000, {"ETag": '"v1"'}, cut=2000), second])
    http_server.answer = lambda _: next(answers, Answer(200, BODY))
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == BODY


def test_a_download_without_a_validator_starts_anew(http_server: HttpServer, tmp_path: Path) -> None:
    answers = iter([Answer(200, BODY, {"ETag": 'W/"weak"'}, cut=2000)])
    http_server.answer = lambda _: next(answers, Answer(200, BODY))
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == BODY
    assert "range" not in http_server.requests[1].headers


@pytest.mark.usefixtures("few_retries")
def test_a_download_goes_on_while_bytes_come(
    http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a validator each request begins anew, and may break before the place where the last one broke."""
    monkeypatch.setattr(web_server, "_MAX_PAUSE", 0.4)
    monkeypatch.setattr(web_server, "FIRST_PAUSE", 0.4)
    answers = iter([Answer(200, BODY, cut=cut) for cut in (2_000_000, 1_500_000, 1_000_000, 500_000)])
    http_server.answer = lambda _: next(answers, Answer(200, BODY))
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == BODY


def test_a_file_that_is_read_anew_needs_no_space_beside_its_beginning(
    http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[list[Path]] = []
    monkeypatch.setattr(web_server, "check_free_space", lambda folder, *_: checked.append(list(folder.iterdir())))
    answers = iter([Answer(200, BODY, cut=2000)])
    http_server.answer = lambda _: next(answers, Answer(200, BODY))
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert checked == [[], []]


@pytest.mark.usefixtures("few_retries")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_failing_servers_are_faults_after_retries(status: int, http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: Answer(status)
    with pytest.raises(
        Fault, match=rf"rows.csv': the server could not be used for \d+ s \(it answers {status}\)"
    ) as raised:
        download(f"{http_server.url}/rows.csv?token=s3cret", tmp_path)
    assert raised.value.reason == Reason.SOURCE_UNAVAILABLE
    assert "s3cret" not in str(raised.value)
    assert len(http_server.requests) > 1


@pytest.mark.parametrize(
    "after", ["3600", format_datetime(datetime(2100, 1, 1, tzinfo=UTC), usegmt=True)], ids=["seconds", "date"]
)
def test_a_retry_after_beyond_the_limit_ends_the_retries(after: str, http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: Answer(429, headers={"Retry-After": after})
    with pytest.raises(Fault, match=r"it answers 429 and asks for a pause of \d{4,} s"):
        download(f"{http_server.url}/rows.csv", tmp_path)
    assert len(http_server.requests) == 1


@pytest.mark.parametrize("after", ["0", "soon", format_datetime(datetime(2015, 10, 21, tzinfo=UTC), usegmt=True)])
def test_a_retry_after_within_the_limit_is_waited_for(after: str, http_server: HttpServer, tmp_path: Path) -> None:
    answers = iter([Answer(503, headers={"Retry-After": after})])
    http_server.answer = lambda _: next(answers, Answer(200, b"text"))
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == b"text"


@pytest.mark.usefixtures("few_retries")
def test_a_refused_connection_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"\(\[Errno 111\] Connection refused\)"):
        download(f"http://127.0.0.1:{free_port()}/rows.csv", tmp_path)


def test_an_interrupt_ends_the_retries(http_server: HttpServer, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted("SIGTERM")

    http_server.answer = lambda _: Answer(503)
    with pytest.raises(Interrupted):
        download(f"{http_server.url}/rows.csv", tmp_path, interrupt)


@pytest.mark.parametrize(
    ("status", "reason", "cause"),
    [
        (404, Reason.SOURCE_NOT_FOUND, "there is no such file, the server answers 404"),
        (410, Reason.SOURCE_NOT_FOUND, "there is no such file"),
        (401, Reason.SOURCE_DENIED, "answers 401: the address must be open to all, or carry a signature"),
        (403, Reason.SOURCE_DENIED, "answers 403"),
        (400, Reason.SOURCE_DENIED, "answers 400"),
        (304, Reason.SOURCE_DENIED, "answers 304"),
    ],
)
def test_refused_requests_are_mistakes(
    status: int, reason: Reason, cause: str, http_server: HttpServer, tmp_path: Path
) -> None:
    http_server.answer = lambda _: Answer(status)
    with pytest.raises(UserError, match=rf"^dataset.uri '{http_server.url}/rows.csv': .*{cause}") as raised:
        download(f"{http_server.url}/rows.csv?token=s3cret", tmp_path)
    assert raised.value.reason == reason
    assert len(http_server.requests) == 1


@pytest.mark.usefixtures("private_redirects")
def test_redirects_are_followed_where_an_admin_allows_it(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda request: (
        redirect("/there?x=1", 307) if request.path == "/rows.csv" else Answer(body=b"text")
    )
    download(f"{http_server.url}/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == b"text"


@pytest.mark.usefixtures("private_redirects")
def test_a_circle_of_redirects_is_refused(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: redirect("/rows.csv")
    with pytest.raises(UserError, match="it redirects more than 5 times"):
        download(f"{http_server.url}/rows.csv", tmp_path)
    assert len(http_server.requests) == 6


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "[fd00::1]", "[::ffff:192.168.0.1]", "0.0.0.0", "2130706433"],
)  # fmt: skip
def test_redirects_to_private_addresses_are_refused(host: str, http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: redirect(f"http://{host}:{http_server.port}/secret?token=s3cret")
    with pytest.raises(UserError, match=r"it redirects to '.*', a private address") as raised:
        download(f"{http_server.url}/rows.csv", tmp_path)
    assert raised.value.reason == Reason.SOURCE_DENIED
    assert "s3cret" not in str(raised.value)
    assert [request.path for request in http_server.requests] == ["/rows.csv"]


def test_a_name_that_turns_private_after_the_check_is_refused(
    http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "_resolve", lambda _: {"8.8.8.8"})
    http_server.answer = lambda request: redirect("/secret") if request.path == "/rows.csv" else Answer(body=b"secret")
    with pytest.raises(UserError, match="a private address"):
        download(f"{http_server.url}/rows.csv", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.com/x"])
@pytest.mark.usefixtures("private_redirects")
def test_redirects_to_what_is_no_web_server_are_refused(target: str, http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: redirect(target)
    with pytest.raises(UserError, match="it redirects to") as raised:
        download(f"{http_server.url}/rows.csv", tmp_path)
    assert raised.value.reason == Reason.SOURCE_DENIED


@pytest.mark.usefixtures("private_redirects")
def test_a_redirect_from_https_to_http_is_refused(
    http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        serve_http(lambda _: redirect(f"{http_server.url}/rows.csv"), certificate) as server,
        pytest.raises(UserError, match=r"it redirects to 'http://127.0.0.1': https is needed"),
    ):
        download(f"{server.url}/rows.csv", tmp_path)
    assert not http_server.requests


@pytest.mark.usefixtures("few_retries")
def test_the_ca_of_ssl_cert_file_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_credentials(monkeypatch)
    certificate = write_certificate(tmp_path / "ca.pem")
    monkeypatch.setattr("trainingtask_trainer.storage.object_store.RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with serve_http(lambda _: Answer(body=b"<ListBucketResult/>"), certificate) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(Fault, match=r"its certificate is not trusted.*SSL_CERT_FILE"):
            download(f"{server.url}/rows.csv", tmp_path)
        with pytest.raises(Fault, match=r"its certificate is not trusted.*SSL_CERT_FILE"):
            ObjectStore("s3://bucket", "dataset.uri").list()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        download(f"{server.url}/rows.csv", tmp_path)
        assert ObjectStore("s3://bucket", "dataset.uri").list() == []


def test_a_file_larger_than_the_disk_does_not_start(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.answer = lambda _: Answer(body=b"text", headers={"Content-Length": str(2**62)}, cut=4)
    with pytest.raises(Fault, match=r" and the disk of .* free") as raised:
        download(f"{http_server.url}/rows.csv", tmp_path)
    assert raised.value.reason == Reason.NO_SPACE_LEFT


def test_proxies_of_the_environment_are_used(
    http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    http_server.answer = lambda request: Answer(body=request.path.encode())
    monkeypatch.setenv("HTTP_PROXY", http_server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    download("http://data.example.com/rows.csv", tmp_path)
    assert (tmp_path / "rows.csv").read_bytes() == b"http://data.example.com/rows.csv"
