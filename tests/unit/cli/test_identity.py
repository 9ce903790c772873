"""Where requests with the user's own AWS credentials go, and where none ever goes."""

from __future__ import annotations

import shlex
import socket
import threading
from contextlib import contextmanager

import pytest
from builders import NAME, checkpoint_spec, make_run
from fakes import stored_run

from trainingrun_operator.cli.identity import check_encrypted, check_named_by_spec
from trainingrun_operator.cli.trouble import Exit, TroubleError


def run_at(url):
    return {"checkpoint": checkpoint_spec(s3={"endpointURL": url, "credentialsSecretName": "x"})}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://s3.amazonaws.com",
        "https://s3.eu-central-1.amazonaws.com",
        "https://s3.eu-central-1.amazonaws.com/",
        "https://s3.eu-central-1.amazonaws.com:443",
        "https://s3-us-west-2.amazonaws.com",
        "https://s3.dualstack.ap-southeast-2.amazonaws.com",
        "https://s3-fips.us-gov-west-1.amazonaws.com",
        "https://s3-fips.dualstack.us-east-1.amazonaws.com",
        "https://s3.cn-north-1.amazonaws.com.cn",
        "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
    ],
)
def test_a_spec_may_name_aws_itself(url):
    check_named_by_spec(make_run(spec=run_at(url)))


@pytest.mark.parametrize(
    "url",
    [
        "https://minio.storage.svc:9000",
        "https://s3.evil.example",
        "http://127.0.0.1:5077",
        "http://s3.eu-central-1.amazonaws.com",
        "https://s3.amazonaws.com.evil.example",
        "https://s3.amazonaws.com@evil.example",
        "https://evil.example/s3.amazonaws.com",
        "https://evil.example#.s3.amazonaws.com",
        "https://evil.example?.s3.amazonaws.com",
        "https://s3xamazonaws.com",
        "https://s3.amazonaws.com:8443",
        "https://a1b2c3.execute-api.us-east-1.amazonaws.com",
        "https://my-balancer.us-east-1.elb.amazonaws.com",
        "https://ec2-1-2-3-4.compute-1.amazonaws.com",
        "https://bucket.s3-website.us-east-1.amazonaws.com",
        "https://s3.execute-api.us-east-1.amazonaws.com",
    ],
)
def test_a_spec_may_name_nobody_elses_server(url):
    with pytest.raises(TroubleError) as refused:
        check_named_by_spec(make_run(spec=run_at(url)))
    assert refused.value.exit_code is Exit.FORBIDDEN
    said = str(refused.value)
    assert repr(url) in said
    assert shlex.split(said.partition("yourself: ")[2]) == ["--endpoint-url", url]


@pytest.mark.parametrize("url", ["https://s3.a\u202e.example", "https://s3.\x1b[2J.example", "https://x;id|sh"])
def test_the_advice_holds_no_word_that_acts_or_does_not_show(url):
    with pytest.raises(TroubleError) as refused:
        check_named_by_spec(make_run(spec=run_at(url)))
    assert str(refused.value).isprintable()
    assert shlex.split(str(refused.value).partition("yourself: ")[2])[1] in {url, "URL"}


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.amazonaws.com",
        "https://minio.storage.svc:9000",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://[::1]:9000",
        "http://127.8.8.8",
    ],
)
def test_https_and_this_machine_may_be_used(url):
    check_encrypted(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://minio.storage.svc:9000",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "http://localhost.evil.example",
        "http://169.254.169.254",
        "ftp://x",
    ],
)
def test_nothing_is_sent_over_http_whoever_names_the_address(url):
    with pytest.raises(TroubleError, match="not sent over http"):
        check_encrypted(url)


@contextmanager
def listening():
    """A server that notes who connects."""
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take():
            while True:
                try:
                    there, _ = server.accept()
                except OSError:
                    return
                with there:
                    came.append(there.recv(65536))
                    there.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", came
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def admin(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAADMIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "admins-session-token")


@pytest.mark.parametrize("command", ["list", "verify", "download"])
def test_the_server_of_a_spec_gets_no_connection(kubectl, plugin, admin, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with listening() as (url, came):
        kubectl.has(stored_run(spec=run_at(url)))
        said = plugin("checkpoints", command, NAME)
    assert (said.code, came) == (Exit.FORBIDDEN, [])
    assert f"spec.checkpoint.s3.endpointURL of ml/bert is '{url}'" in said.err


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_server_that_the_user_names_gets_the_request(kubectl, plugin, admin, monkeypatch, by):
    with listening() as (url, came):
        kubectl.has(stored_run(spec=run_at("https://minio.storage.svc:9000")))
        if by == "environment":
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        plugin("checkpoints", "list", NAME, *(("--endpoint-url", url) if by == "option" else ()))
    assert came
    assert b"admins-session-token" in came[0]


@pytest.mark.parametrize("of", ["a run", "an address"])
def test_an_http_address_gets_nothing_also_from_the_users_configuration(
    kubectl, plugin, admin, monkeypatch, tmp_path, of
):
    config = tmp_path / "config"
    config.write_text("[default]\nendpoint_url = http://s3.example.test:1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    kubectl.has(stored_run(spec=run_at("")))
    said = plugin("checkpoints", "list", NAME if of == "a run" else "s3://bucket/ml/bert/uid")
    assert said.code == Exit.FORBIDDEN
    assert "'http://s3.example.test:1'" in said.err
