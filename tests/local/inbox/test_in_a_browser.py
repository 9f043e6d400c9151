"""In a browser: the sandbox, the links, and the live list."""

import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.local.inbox.running_inbox import RunningInbox


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page()
    yield page
    page.close()


def html_mail(html: str) -> bytes:
    return b"Content-Type: text/html\r\n\r\n" + html.encode() + b"\r\n"


def test_a_link_in_a_mail_opens_the_site_in_a_new_tab(page: Page, inbox: RunningInbox) -> None:
    site = f"http://localhost:{inbox.port}"  # another origin than the page, and scripts of it must run
    message_id = inbox.send(html_mail(f'<p>Hello</p><a href="{site}/?from=mail">Confirm</a>'))
    page.goto(f"{inbox.url}/messages/{message_id}/")
    with page.context.expect_page() as opened:
        page.frame_locator("iframe").get_by_text("Confirm").click()
    tab = opened.value
    tab.wait_for_load_state()
    assert tab.url == f"{site}/?from=mail"
    assert tab.evaluate("[location.origin, document.referrer, window.opener]") == [site, "", None]
    tab.close()


def test_a_mail_runs_no_script_and_loads_nothing_from_other_sites(page: Page, inbox: RunningInbox) -> None:
    elsewhere = f"http://localhost:{inbox.port}/static"
    message_id = inbox.send(
        html_mail(
            f"""<img src="{elsewhere}/inbox.svg"><link rel=stylesheet href="{elsewhere}/inbox.css">
            <img src="{inbox.url}/api/messages"><meta http-equiv=refresh content="0;{inbox.url}/healthz">
            <form action="{inbox.url}/healthz"><button onclick="document.body.append('ran')">Send</button></form>
            <script>document.body.append("ran")</script>"""
        )
    )
    answered: list[str] = []
    page.on("response", lambda response: answered.append(response.url))
    page.goto(f"{inbox.url}/messages/{message_id}/")
    frame = page.frame_locator("iframe")
    frame.get_by_text("Send").click()
    page.wait_for_timeout(200)
    expect(frame.locator("body")).not_to_contain_text("ran")
    own = {f"{inbox.url}{path}" for path in ("/static/inbox.svg", "/static/inbox.css")}
    assert set(answered) - own == {f"{inbox.url}/messages/{message_id}/{page}" for page in ("", "html/")}


@pytest.mark.parametrize(
    "html",
    [
        "<iframe src={}></iframe>",
        "<IFRAME/src={}>",
        "<frameset><frame src={}></frameset>",
        '<iframe srcdoc="&lt;iframe src={}&gt;"></iframe>',
        "<svg><foreignObject><iframe src={}></iframe></foreignObject></svg>",
        "<noscript><style></noscript><iframe src={}></iframe>",
        '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;"><iframe\nsrc={}></iframe>',
        "<object data={} type=text/html></object><embed src={}>",
        "<meta http-equiv=refresh content='0;{}'><base href={}><img src=x>",
        "<link rel=preconnect href={}><link rel=prefetch href={}><link rel='stylesheet icon manifest' href={}>",
        "<style>@import '{}'; body {{ background: url({}) }}</style><img src={} srcset={}><video src={} poster={}></video>",
        "<svg><image href={} /><use href={}#a /></svg><input type=image src={}><table background={}>",
    ],
)
def test_a_mail_makes_no_connection(page: Page, inbox: RunningInbox, html: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x"
        message_id = inbox.send(html_mail(html.replace("{}", address).replace("{{", "{").replace("}}", "}")))
        page.goto(f"{inbox.url}/messages/{message_id}/")
        page.wait_for_timeout(200)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_new_mail_appears_without_a_reload(page: Page, inbox: RunningInbox) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{inbox.url}/?q=live-update")
    expect(page.locator(".row")).to_have_count(0)
    for number in (b"one", b"two"):
        inbox.send(b"Subject: live-update <b>%s</b>\r\n\r\n" % number)
        expect(page.locator(".row.new .subject").first).to_have_text(f"live-update <b>{number.decode()}</b>")
    expect(page.locator(".row")).to_have_count(2)
    assert complaints == []
