import io
from contextlib import closing
from pathlib import Path

from local.follow import Follower, Tail, last_lines


def test_only_new_and_complete_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text("before\n")
    with closing(Tail(log)) as tail, log.open("a") as out:
        out.write("one\ntwo\nthr")
        out.flush()
        assert tail.lines() == ["one", "two"]
        assert tail.lines() == []
        out.write("ee\n")
        out.flush()
        assert tail.lines() == ["three"]


def test_no_line_is_lost_when_the_log_is_renamed(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    renamed = tmp_path / "web.log.1"
    with closing(Tail(log)) as tail:
        log.write_text("one\n")
        log.rename(renamed)
        assert tail.lines() == ["one"]
        with renamed.open("a") as out:
            out.write("two\n")
        log.write_text("three\n")
        assert tail.lines() == ["two", "three"]


def test_every_line_begins_with_the_name_of_its_process(tmp_path: Path) -> None:
    out = io.StringIO()
    with closing(Follower({name: tmp_path / f"{name}.log" for name in ("web", "postgres")}, out)) as follower:
        (tmp_path / "web.log").write_text("hello\nagain\n")
        (tmp_path / "postgres.log").write_bytes(b"not \xff text\n")
        follower.show()
    assert out.getvalue() == "web      | hello\nweb      | again\npostgres | not \ufffd text\n"


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    assert last_lines(log) == []
    log.write_text("".join(f"{n}\n" for n in range(100_000)))
    assert last_lines(log, 2) == ["99998", "99999"]
