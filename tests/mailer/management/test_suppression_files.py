"""Suppressions leave as CSV and come back the same. A provider's list is understood, and a bad line stops no other."""

import csv
import os
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from mailer.models import ALL_STREAMS, Cause, Suppression
from mailer.recipients import suppression, suppression_file

pytestmark = pytest.mark.django_db

Rows = list[tuple[object, ...]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.csv"


def run(*arguments: object, code: int = 0) -> str:
    """Run a command, and return what it said, errors too."""
    out, said = StringIO(), StringIO()
    ended = 0
    try:
        call_command(*map(str, arguments), stdout=out, stderr=said)
    except CommandError as error:
        ended = error.returncode
        said.write(str(error))
    assert ended == code, said.getvalue()
    return out.getvalue() + said.getvalue()


def rows(*columns: str) -> Rows:
    return list(Suppression.objects.order_by("address", "stream").values_list(*columns))


def causes() -> dict[object, tuple[object, object]]:
    return {address: (cause, stream) for address, cause, stream in rows("address", "cause", "stream")}


def test_what_is_exported_and_imported_is_the_same(file: Path) -> None:
    suppression.suppress("Ann@Bücher.example", '550 5.1.1 "no";\r\nuser, or\nformula =1+1 ', source="transport")
    suppression.suppress("bob@example.com", "unsubscribed", stream="news", cause=Cause.UNSUBSCRIBE)
    suppression.suppress("bob@example.com", "", stream=ALL_STREAMS, cause=Cause.UNSUBSCRIBE, source="Postmark")
    suppression.suppress("o'hara\\N+x@example.com", "spam", cause=Cause.COMPLAINT, source="é, 日本")
    suppression.suppress("erased@example.com", "550", cause=Cause.BOUNCES)
    suppression.erase("erased@example.com")
    Suppression.objects.filter(stream="news").update(created_at=datetime(2020, 2, 29, 1, 2, 3, 4, UTC))
    Suppression.objects.create(address='"x y"@example.com', reason="asked", cause=Cause.OPERATOR)
    before = rows(*suppression_file.OURS)

    assert "6 addresses written" in run("export_suppressions", "--output", file)
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert run("export_suppressions") == file.read_bytes().decode()
    Suppression.objects.all().delete()
    assert run("import_suppressions", file) == "6 addresses imported, 0 suppressed already or named twice.\n"

    assert rows(*suppression_file.OURS) == before
    assert suppression.suppressed(["erased@example.com"])
    assert run("import_suppressions", file).startswith("0 addresses imported, 6 suppressed already")


@pytest.mark.parametrize(
    ("name", "text", "arguments", "expected"),
    [
        (
            "Postmark",
            "EmailAddress,SuppressionReason,Origin,CreatedAt\n"
            "a@example.com,HardBounce,Recipient,2026-01-02T03:04:05-05:00\n"
            "b@example.com,SpamComplaint,Recipient,2026-01-02T03:04:05-05:00\n"
            "c@example.com,ManualSuppression,Recipient,2026-01-02T03:04:05-05:00\n"
            "d@example.com,ManualSuppression,Customer,2026-01-02T03:04:05-05:00\n",
            [],
            {
                "a": (Cause.BOUNCE, ""),
                "b": (Cause.COMPLAINT, ""),
                "c": (Cause.UNSUBSCRIBE, "*"),
                "d": (Cause.OPERATOR, ""),
            },
        ),
        (
            "SendGrid",
            'status,reason,email,created\n5.1.1,"550 5.1.1 The account does not exist, x",a@example.com,1700000000\n',
            ["--cause", "bounce"],
            {"a": (Cause.BOUNCE, "")},
        ),
        (
            "Mailgun",
            'address,code,error,created_at\na@example.com,550,No such user,"Fri, 21 Oct 2011 11:02:55 UTC"\n',
            ["--cause", "bounce"],
            {"a": (Cause.BOUNCE, "")},
        ),
        (
            "Amazon SES",
            "EmailAddress,Reason,LastUpdateTime\na@example.com,BOUNCE,2026-01-02\nb@example.com,COMPLAINT,2026-01-02\n",
            [],
            {"a": (Cause.BOUNCE, ""), "b": (Cause.COMPLAINT, "")},
        ),
        (
            "Brevo",
            "Email;Reason;Blocked at\na@example.com;hardBounce;2026-01-02\nb@example.com;contactFlaggedAsSpam;2026-01-02\n"
            "c@example.com;unsubscribedViaEmail;2026-01-02\nd@example.com;adminBlocked;2026-01-02\n",
            [],
            {
                "a": (Cause.BOUNCE, ""),
                "b": (Cause.COMPLAINT, ""),
                "c": (Cause.UNSUBSCRIBE, "*"),
                "d": (Cause.OPERATOR, ""),
            },
        ),
        (
            "Mandrill",
            "email\treason\tdetail\tcreated_at\na@example.com\thard-bounce\t550 gone\t2026-01-02\n"
            "b@example.com\tsoft-bounce\t\t2026-01-02\nc@example.com\tunsub\t\t2026-01-02\n",
            [],
            {"a": (Cause.BOUNCE, ""), "b": (Cause.BOUNCES, ""), "c": (Cause.UNSUBSCRIBE, "*")},
        ),
        (
            "SparkPost",
            "recipient,type,source,description,created\na@example.com,transactional,Bounce Rule,550 gone,2026-01-02\n"
            "b@example.com,non_transactional,List Unsubscribe,,2026-01-02\n",
            [],
            {"a": (Cause.BOUNCE, ""), "b": (Cause.UNSUBSCRIBE, "*")},
        ),
        (
            "a mere list",
            "a@example.com\n\nb@example.com\n",
            ["--cause", "operator"],
            dict.fromkeys("ab", (Cause.OPERATOR, "")),
        ),
    ],
)
def test_the_lists_of_providers(
    file: Path, name: str, text: str, arguments: list[str], expected: dict[str, tuple[Cause, str]]
) -> None:
    file.write_text(text)
    run("import_suppressions", file, "--source", name, *arguments)
    assert causes() == {f"{who}@example.com": what for who, what in expected.items()}


def test_what_a_provider_says_is_kept(file: Path) -> None:
    file.write_text('address,code,error,created_at\na@example.com,550,No such user,"Fri, 21 Oct 2011 11:02:55 UTC"\n')
    run("import_suppressions", file, "--cause", "bounce", "--source", "Mailgun")
    moment = datetime(2011, 10, 21, 11, 2, 55, tzinfo=UTC)
    assert rows("source", "reason", "created_at") == [("Mailgun", "550 No such user", moment)]


@pytest.mark.parametrize(
    "written",
    [
        "email,reason\r\nann@example.com,spam – viele\r\n".encode("utf-8-sig"),
        "email,reason\r\nann@example.com,spam – viele\r\n".encode("utf-16"),
        "email,reason\nann@example.com,spam – viele\n".encode("utf-16-le"),
        "email;reason\rann@example.com;spam – viele\r".encode("cp1252"),
        "  E-Mail ;reason\n\n;\nann@example.com;spam – viele".encode(),
        '"email"|"reason"\n" Ann Example <Ann@Example.com> "|"spam – viele"\n'.encode(),
    ],
)
def test_files_of_any_program(file: Path, written: bytes) -> None:
    file.write_bytes(written)
    run("import_suppressions", file, "--cause", "complaint")
    assert rows("address", "reason") == [("ann@example.com", "spam – viele")]


def test_a_line_that_cannot_be_read_is_named_and_stops_no_other(file: Path) -> None:
    file.write_text(
        "email,reason,created\n"
        "a@example.com,bounce,2026-01-02\n"
        "no address,bounce,2026-01-02\n"
        ",bounce,2026-01-02\n"
        "b@example.com\n"
        "c@example.com,a riddle,2026-01-02\n"
        f"{'x' * 300}@example.com,spam,\n"
        '"d@example.com"x,bounce,2026-01-02\n'
        "e@example.com,spam,tomorrow,and,more\n"
        "f@example.com,subscribed,2026-01-02\n"
    )
    said = run("import_suppressions", file, code=1)

    assert list(causes()) == ["a@example.com", "e@example.com"]
    assert said.splitlines() == [
        "2 addresses imported, 0 suppressed already or named twice.",
        "1 without a time that can be read: the time of the import is kept.",
        "1 skipped: the file says that the address gets mail.",
        "Line 3: 'no address' is no address.",
        "Line 4: it has no address.",
        "Line 5: it does not say why; give --cause for such lines.",
        "Line 6: what 'a riddle' means is not known; give --cause for such lines.",
        "Line 7: the address cannot be transmitted: it has more than 254 characters (RFC 5321, 4.5.3.1.3).",
        "Line 8: its quotation marks do not match (',' expected after '\"').",
        "6 lines could not be read.",
    ]


def test_what_a_missing_quotation_mark_swallows_is_named(file: Path) -> None:
    file.write_text(
        'email,reason\na@example.com,"bounce\nb@example.com,spam\nc@example.com,"spam"\nd@example.com,spam\n'
    )
    said = run("import_suppressions", file, code=1)
    assert "Line 2: its quotation marks do not match" in said
    assert "what follows up to line 4 was not read either" in said
    assert list(causes()) == ["d@example.com"]


def test_of_many_lines_the_first_ones_are_named(file: Path) -> None:
    file.write_text("email\n" + "x\n" * 1_000)
    said = run("import_suppressions", file, "--cause", "bounce", code=1)
    assert said.count("is no address") == 20
    assert "1,000 lines could not be read." in said


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"", "it is empty."),
        (b"\n\na@example.com\n", "its first line is empty."),
        (b"PK\x03\x04....", "it is an Excel workbook or a zip archive; save it as CSV."),
        (b"\x1f\x8b\x08\0", "it is compressed; save it as CSV."),
        (b"name,city\nAnn,Rome\n", "no column is called email or address, and the first line has no address."),
        (os.urandom(300).replace(b"@", b""), "list.csv: "),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_list_is_answered_with_a_sentence(file: Path, written: bytes | None, sentence: str) -> None:
    if written is not None:
        file.write_bytes(written)
    assert sentence in run("import_suppressions", file, code=1)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    assert "Is a directory" in run("import_suppressions", tmp_path, code=1)
    assert "Is a directory" in run("export_suppressions", "--output", tmp_path, code=1)


def test_a_dry_run_says_what_would_happen_and_changes_nothing(file: Path) -> None:
    suppression.suppress("a@example.com", "550")
    file.write_text("email\na@example.com\nb@example.com\nB@example.com\n")
    said = run("import_suppressions", file, "--cause", "bounce", "--dry-run")
    assert said.startswith("1 address would be imported, 2 suppressed already or named twice.")
    assert list(causes()) == ["a@example.com"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02 03:04:05 UTC", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.123456Z", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("Thu, 13 Oct 2011 18:02:00 +0200", datetime(2011, 10, 13, 16, 2, tzinfo=UTC)),
        ("12/31/2025", None),
        ("99999999999999999999", None),
        ("", None),
    ],
)
def test_times_as_providers_write_them(text: str, moment: datetime | None) -> None:
    assert suppression_file.moment(text) == moment


@pytest.mark.skipif("ROWS" not in os.environ, reason="ROWS=1000000 measures")
@pytest.mark.timeout(600)
def test_a_long_list(file: Path) -> None:
    number = int(os.environ["ROWS"])
    with file.open("w") as opened:
        csv.writer(opened).writerows(
            [
                ("email", "reason"),
                *((f"p{each * 7919 % number}@example{each % 97}.com", "hard_bounce") for each in range(number)),
            ]
        )
    for command in (
        ["import_suppressions", file],
        ["import_suppressions", file],
        ["export_suppressions", "--output", file],
    ):
        began = time.monotonic()
        print(run(*command).strip(), f"{time.monotonic() - began:.1f} s")
    assert Suppression.objects.filter(created_at__lte=Now()).count() == number
