"""The pages and their security headers."""

import re
from email.message import EmailMessage
from urllib.parse import urlencode

import pytest

from tests.local.inbox.conftest import Start
from tests.local.inbox.running_inbox import Answer, RunningInbox

PICTURE = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
PAGES = ["", "?show=html", "?show=text", "?show=headers", "?show=source", "?show=attachments"]


def html_mail(html: str, subject: str = "x", text: str = "text") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.com", "ann@example.com", subject
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def token_and_cookie(page: Answer) -> tuple[str, dict[str, str]]:
    """What a browser sends back with the form of this page."""
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return token[1], form | {"Cookie": page.headers["Set-Cookie"].partition(";")[0]}


def test_the_empty_inbox_shows_its_smtp_address(start: Start) -> None:
    inbox = start()
    assert f"127.0.0.1:{inbox.smtp_port}" in inbox.ask("/").text


def test_the_list_shows_the_newest_first(inbox: RunningInbox) -> None:
    for subject in (b"older mail", b"newer mail"):
        inbox.send(b"Subject: order-of-rows %s\r\nFrom: Shop <shop@example.com>\r\n\r\n" % subject)
    page = inbox.ask("/?q=order-of-rows").text
    assert page.index("newer mail") < page.index("older mail")
    assert "Shop &lt;shop@example.com&gt;" in page
    assert "ann@example.com" in page


def test_the_list_has_pages(start: Start) -> None:
    inbox = start()
    with inbox.smtp() as smtp:
        for number in range(101):
            smtp.sendmail("a@example.com", "b@example.com", f"Subject: mail {number}.\r\n\r\n")
    assert "Page 1 of 2" in inbox.ask("/").text
    assert "mail 0." in inbox.ask("/?page=2").text
    assert inbox.ask("/?page=999").status == inbox.ask("/?page=x").status == 200


@pytest.mark.parametrize(
    "query",
    ["ünique-subject", "SENDER-77", "reader-77", "bcc-77", "body-77", "markup-77", "file-77", "body-77 reader-77"],
)
def test_the_search_covers_every_field(inbox: RunningInbox, query: str) -> None:
    message = html_mail("<style>hidden-77</style><p>mark<b>up</b>-77 markup&#45;77</p>", "ünique-subject", "body-77")
    message.replace_header("From", "sender-77@example.com")
    message.add_attachment(b"x", maintype="a", subtype="b", filename="file-77.bin")
    message_id = inbox.send(bytes(message), recipients=["reader-77@example.com", "bcc-77@example.com"])
    assert message_id in [found["id"] for found in inbox.found(query)]
    assert message_id in inbox.ask(f"/?{urlencode({'q': query})}").text
    assert inbox.found("hidden-77") == inbox.found("body-77 nowhere") == []


@pytest.mark.parametrize("page", PAGES)
def test_the_content_of_a_mail_is_escaped_on_every_page(inbox: RunningInbox, page: str) -> None:
    evil = "<script>alert(1)</script>"
    message = html_mail("<p>x</p>", f"escaping {evil}", f"{evil} https://example.com/?a=1&b=<script>\"'>")
    message["X-Evil"] = evil
    message.add_attachment(b"x", maintype="a", subtype="b", filename=f'"{evil}.png')
    message_id = inbox.send(bytes(message), f'"{evil}"@example.com', [f'"{evil}"@example.com'])
    for path in (f"/messages/{message_id}/{page}", "/?q=escaping", f"/?{urlencode({'q': evil})}"):
        text = inbox.ask(path).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text


def test_in_the_frame_a_mail_can_only_open_links(inbox: RunningInbox) -> None:
    message_id = inbox.send(bytes(html_mail("<script>1</script>")))
    page = inbox.ask(f"/messages/{message_id}/").text
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    frame = inbox.ask(f"/messages/{message_id}/html/")
    policy = dict(directive.split(" ", 1) for directive in frame.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": f"data: {inbox.url}/messages/{message_id}/parts/",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self'",
        "sandbox": "allow-popups allow-popups-to-escape-sandbox",
    }
    assert frame.text.startswith('<base target="_blank">')
    assert frame.headers["Content-Type"] == "text/html; charset=utf-8"


def test_pictures_in_the_html_come_from_the_mail_itself(inbox: RunningInbox) -> None:
    message = html_mail(
        '<!doctype html><img src="cid:logo@x"><b style="background:url(cid:logo%40x)"></b><i src="cid:no">'
    )
    html_part = message.get_payload()[1]  # type: ignore[index]
    html_part.add_related(PICTURE, maintype="image", subtype="gif", cid="<logo@x>")  # type: ignore[union-attr]
    message_id = inbox.send(bytes(message))
    address = f"/messages/{message_id}/parts/1/"
    html = inbox.ask(f"/messages/{message_id}/html/").text
    assert html.startswith('<!doctype html><base target="_blank">')
    assert f'src="{inbox.url}{address}"' in html
    assert f"url({inbox.url}{address})" in html
    assert 'src="cid:no"' in html
    picture = inbox.ask(address)
    assert (picture.body, picture.headers["Content-Type"]) == (PICTURE, "image/gif")


@pytest.mark.parametrize(
    ("content_id", "url"),
    [
        ("logo@x", "cid:logo%40x"),
        ("logo@x", "CID:logo@x"),
        ("a&b@x", "cid:a&amp;b%40x"),
        ("a%40b", "cid:a%40b"),
        ("50%@x", "cid:50%25@x"),
    ],
)
def test_a_picture_is_found_however_its_url_is_escaped(inbox: RunningInbox, content_id: str, url: str) -> None:
    message = html_mail(f'<img src="{url}">')
    html_part = message.get_payload()[1]  # type: ignore[index]
    html_part.add_related(PICTURE, maintype="image", subtype="gif", cid=f"<{content_id}>")  # type: ignore[union-attr]
    message_id = inbox.send(bytes(message))
    assert f'src="{inbox.url}/messages/{message_id}/parts/1/"' in inbox.ask(f"/messages/{message_id}/html/").text
    assert "part-1" not in inbox.ask(f"/messages/{message_id}/").text  # it is no attachment


@pytest.mark.parametrize(
    ("claimed", "served"), [("text/html", "application/octet-stream"), ("image/svg+xml", "image/svg+xml")]
)
def test_an_attachment_is_downloaded_and_never_opened(inbox: RunningInbox, claimed: str, served: str) -> None:
    message = html_mail("")
    maintype, subtype = claimed.split("/")
    message.add_attachment(b"<script>1</script>", maintype=maintype, subtype=subtype, filename="ä.html")
    answer = inbox.ask(f"/messages/{inbox.send(bytes(message))}/parts/1/")
    assert answer.body == b"<script>1</script>"
    assert answer.headers["Content-Type"] == served
    assert answer.headers["Content-Disposition"] == "attachment; filename*=utf-8''%C3%A4.html"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_links_in_the_text_are_clickable(inbox: RunningInbox) -> None:
    message_id = inbox.send(b"\r\nPlease open http://localhost:8000/verify/1/a_b-c/?d=1&e=2.\r\n")
    page = inbox.ask(f"/messages/{message_id}/?show=text").text
    assert '<a href="http://localhost:8000/verify/1/a_b-c/?d=1&amp;e=2" target="_blank"' in page


def test_the_source_is_plain_text(inbox: RunningInbox) -> None:
    answer = inbox.ask(f"/messages/{inbox.send(b'Content-Type: text/html')}/source/")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("page", ["/", *(f"/messages/{{id}}/{page}" for page in PAGES), "/nowhere"])
def test_pages_run_only_their_own_files(inbox: RunningInbox, page: str) -> None:
    answer = inbox.ask(page.format(id=inbox.send(bytes(html_mail("x")))))
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)", answer.text)
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert inbox.ask(address).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/messages", "/api/messages/{id}", "/messages/{id}/source/", "/healthz", "/no"]
)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8025", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_foreign_host_name_reads_nothing(inbox: RunningInbox, path: str, host: str) -> None:
    message_id = inbox.send(b"Subject: top secret\r\n\r\n")
    answer = inbox.ask(path.format(id=message_id), headers={"Host": host})
    assert answer.status == 400
    assert "secret" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8025", "127.0.0.1", "[::1]:8025"])
def test_the_names_of_this_machine_are_served(inbox: RunningInbox, host: str) -> None:
    assert inbox.ask("/", headers={"Host": host}).status == 200


@pytest.mark.parametrize("path", ["/delete/", "/messages/{id}/delete/"])
def test_only_its_own_forms_delete(start: Start, path: str) -> None:
    inbox = start()
    message_id = inbox.send(b"")
    address = path.format(id=message_id)
    token, headers = token_and_cookie(inbox.ask("/"))
    body = f"csrfmiddlewaretoken={token}".encode()
    assert inbox.ask(address).status == 405
    assert inbox.ask(address, "POST").status == 403
    assert inbox.ask(address, "POST", body, headers | {"Origin": "http://evil.example"}).status == 403
    assert len(inbox.found()) == 1
    assert inbox.ask(address, "POST", body, headers).headers["Location"] == "/"
    assert inbox.found() == []
    assert list(inbox.directory.iterdir()) == []


def test_its_cookie_does_not_replace_the_cookie_of_the_site(inbox: RunningInbox) -> None:
    cookie = inbox.ask("/").headers["Set-Cookie"]
    assert cookie.startswith("inbox_csrftoken=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize("path", ["", "html/", "source/", "parts/1/", "?show=text"])
@pytest.mark.parametrize("message_id", ["20200101T000000-000000-abcdef", "nonsense", "..%2F..%2Fetc%2Fpasswd"])
def test_an_unknown_message_or_part_is_not_found(inbox: RunningInbox, path: str, message_id: str) -> None:
    assert inbox.ask(f"/messages/{message_id}/{path}").status == 404
