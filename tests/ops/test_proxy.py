"""deploy/nginx/duckmesh.conf in a real nginx before a real API: TLS, bodies, streams, and what callers cannot forge."""

import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from duckmesh.devstack.programs import LOOPBACK, Program, check_alive, free_port, spawn, stop
from duckmesh.kernel.config import ROOT
from tests.stack import Stack

pytestmark = [pytest.mark.ops, pytest.mark.timeout(300)]

NAME = "duckmesh.example.com"
CONFIGURATION = ROOT / "deploy" / "nginx" / "duckmesh.conf"
HSTS = "strict-transport-security"


@dataclass(frozen=True)
class Proxy:
    """nginx before the API of the stack."""

    stack: Stack
    plain: int
    tls: int
    certificate: Path

    def connect(self) -> http.client.HTTPSConnection:
        """A connection that checks the certificate and its name."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False  # it is reached by its address; the certificate itself is checked
        return http.client.HTTPSConnection(LOOPBACK, self.tls, context=context, timeout=120)

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers=self.headers(**(headers or {})))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def headers(self, **more: str) -> dict[str, str]:
        key = {"Host": NAME, "Authorization": f"Bearer {self.stack.key}", "Content-Type": "application/json"}
        return {**key, **{name.replace("_", "-"): value for name, value in more.items()}}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {"DUCKMESH_HTTPS": "1", "DUCKMESH_ALLOWED_HOSTS": f"127.0.0.1,localhost,{NAME}"}
    directory = tmp_path_factory.mktemp("nginx")
    with Stack(settings=settings) as stack:
        plain, tls = free_port(), free_port()
        certificate, key = directory / "fullchain.pem", directory / "privkey.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "1", "-subj", f"/CN={NAME}", "-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        site = directory / "duckmesh.conf"
        site.write_text(_placed(stack, plain=plain, tls=tls, directory=directory), encoding="utf-8")
        main = directory / "nginx.conf"
        main.write_text(_main(directory, site), encoding="utf-8")
        program = Program(name="nginx", argv=("/usr/sbin/nginx", "-c", str(main)), cwd=directory, stop_signal="TERM")
        log = directory / "nginx.log"
        process = spawn(program, run=directory, log=log)
        try:
            found = Proxy(stack=stack, plain=plain, tls=tls, certificate=certificate)
            for _ in range(200):
                check_alive(process, program, log)
                try:
                    found.call("GET", "/v1/health")
                    break
                except OSError:
                    time.sleep(0.05)
            yield found
        finally:
            stop(process, program)


def _placed(stack: Stack, *, plain: int, tls: int, directory: Path) -> str:
    """The file as it is, but for ports and the certificate's place."""
    text = CONFIGURATION.read_text("utf-8")
    for given, here in {
        "server 127.0.0.1:8080 ": f"server 127.0.0.1:{stack.port} ",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
        "/etc/ssl/duckmesh/": f"{directory}/",
    }.items():
        assert text.count(given) >= 1, given
        text = text.replace(given, here)
    return text


def _main(directory: Path, site: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    return (
        f"{user} daemon off; pid {directory}/nginx.pid; error_log stderr; events {{}}"
        f" http {{ access_log off; {temporary} include {site}; }}"
    )


def test_plain_http_is_sent_on_to_tls(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, proxy.plain, timeout=30)
    connection.request("GET", "/v1/tables?x=1", headers={"Host": NAME})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, f"https://{NAME}/v1/tables?x=1")
    connection.close()


def test_write_and_query_go_through_and_the_api_knows_of_the_tls(proxy: Proxy) -> None:
    definition = json.dumps({"table_name": "t"}).encode()
    assert proxy.call("POST", "/v1/tables", definition)[0] == 201
    record = json.dumps({"records": [{"payload": {"a": 1}}], "wait_for_visibility": True}).encode()
    status, headers, body = proxy.call("POST", "/v1/ingest/t", record)
    assert (status, json.loads(body)["status"]) == (200, "visible")
    assert HSTS in headers
    status, _, body = proxy.call("POST", "/v1/query", json.dumps({"sql": "SELECT a FROM t"}).encode())
    assert (status, json.loads(body)["rows"]) == (200, [[1]])


def test_caller_cannot_forge_what_the_proxy_says(proxy: Proxy) -> None:
    status, headers, _ = proxy.call("GET", "/v1/health", headers={"X_Forwarded_Proto": "http"})
    assert (status, HSTS in headers) == (200, True)
    forged = proxy.call("GET", "/v1/health", headers={"Host": "evil.example.com", "X_Forwarded_Host": NAME})
    assert forged[0] == 400


def test_body_that_is_too_large_is_refused_by_the_api_and_a_huge_one_by_the_proxy(proxy: Proxy) -> None:
    status, headers, body = proxy.call("POST", "/v1/ingest/t", b" " * (64 * 2**20 + 1))
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(body)["error_code"] == "PAYLOAD_TOO_LARGE"
    connection = proxy.connect()
    connection.putrequest("POST", "/v1/ingest/t", skip_host=True)
    for name, value in {**proxy.headers(), "Content-Length": str(2**40)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_rows_come_while_the_query_runs_and_it_ends_when_the_client_hangs_up(proxy: Proxy) -> None:
    connection = proxy.connect()
    sql = "SELECT i, i * 7 AS j, repeat('x', 100) AS k FROM range(60000000) r(i)"
    connection.request("POST", "/v1/query", json.dumps({"sql": sql}).encode(), headers=proxy.headers(Accept="text/csv"))
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read(2**16).startswith(b"i,j,k")
    assert len(_running(proxy)) == 1
    connection.close()
    deadline = time.monotonic() + 60
    while _running(proxy):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _running(proxy: Proxy) -> list[object]:
    found: list[object] = json.loads(proxy.call("GET", "/v1/queries")[2])["queries"]
    return found


def test_metrics_are_not_for_the_outside(proxy: Proxy) -> None:
    assert proxy.call("GET", "/v1/metrics")[0] == 404
