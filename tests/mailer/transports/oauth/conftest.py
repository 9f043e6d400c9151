"""Fixtures: a token endpoint, a mail server, and the three kinds of accounts."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailer.transports.oauth import tokens
from tests.config.test_redis_url import make_certificate
from tests.mailer.transports.oauth.servers import CLIENT_SECRET, REFRESH_TOKEN, Endpoint, MailServer


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of servers whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(autouse=True)
def no_tokens() -> Iterator[None]:
    """A process begins without tokens."""
    tokens._tokens.clear()
    yield
    tokens._tokens.clear()


@pytest.fixture
def endpoint(tls: ssl.SSLContext) -> Iterator[Endpoint]:
    with Endpoint().serve(tls) as endpoint:
        yield endpoint


@pytest.fixture
def server(tls: ssl.SSLContext, endpoint: Endpoint) -> Iterator[MailServer]:
    """A mail server that takes every token that the endpoint issued."""
    with MailServer(lambda token: token in endpoint.issued).serve(tls) as server:
        yield server


@pytest.fixture(scope="session")
def private_key() -> str:
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "rsa"], capture_output=True, check=True, text=True)
    return made.stdout


@pytest.fixture
def microsoft(endpoint: Endpoint) -> dict[str, str]:
    return {
        "oauth": "microsoft",
        "tenant": "tenant",
        "client_id": "client",
        "client_secret": CLIENT_SECRET,
        "authority": endpoint.base,
    }


@pytest.fixture
def google(endpoint: Endpoint) -> dict[str, str]:
    return {
        "oauth": "google",
        "client_id": "client",
        "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH_TOKEN,
        "token_uri": f"{endpoint.base}/token",
    }


@pytest.fixture
def key_file(endpoint: Endpoint, private_key: str, tmp_path: Path) -> dict[str, str]:
    key = {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key": private_key,
        "private_key_id": "1",
        "token_uri": f"{endpoint.base}/token",
    }
    file = tmp_path / "key.json"
    file.write_text(json.dumps(key))
    return {"oauth": "google", "key_file": str(file)}


@pytest.fixture(params=["microsoft", "google", "key_file"])
def account(request: pytest.FixtureRequest) -> dict[str, str]:
    """The options in the URL, for each kind of account."""
    found: dict[str, str] = request.getfixturevalue(request.param)
    return found
