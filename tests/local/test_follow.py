import io
from pathlib import Path

from local.follow import Follower


def test_only_new_and_complete_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text("before\n")
    follower = Follower({"web": log}, out := io.StringIO())
    for text, shown in (("one\ntwo\nthr", "web | one\nweb | two\n"), ("ee\n", "web | three\n")):
        with log.open("a") as file:
            file.write(text)
        follower.show()
        follower.show()
        assert out.getvalue().endswith(shown)
    assert out.getvalue().count("|") == 3


def test_no_line_is_lost_when_the_log_is_renamed(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    renamed = tmp_path / "web.log.1"
    follower = Follower({"web": log}, out := io.StringIO())
    log.write_text("one\n")
    log.rename(renamed)
    follower.show()
    with renamed.open("a") as file:
        file.write("two\n")
    log.write_text("three\n")
    follower.show()
    assert out.getvalue() == "web | one\nweb | two\nweb | three\n"


def test_every_line_begins_with_the_name_of_its_process(tmp_path: Path) -> None:
    follower = Follower({name: tmp_path / f"{name}.log" for name in ("web", "postgres")}, out := io.StringIO())
    (tmp_path / "web.log").write_text("hello\nagain\n")
    (tmp_path / "postgres.log").write_bytes(b"not \xff text\n")
    follower.show()
    assert out.getvalue() == "web      | hello\nweb      | again\npostgres | not \ufffd text\n"
