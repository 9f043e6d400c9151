import pwd
import shutil
from pathlib import Path

import pytest

from local import CannotStart, servers


@pytest.fixture
def failing_useradd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """useradd, as it behaves while another process holds its lock."""
    script = tmp_path / "useradd"
    script.write_text("#!/bin/sh\necho 'useradd: cannot lock /etc/passwd; try again later.' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(script))
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.usefixtures("failing_useradd")
@pytest.mark.parametrize("failures", [1, 4])
def test_another_process_may_make_the_system_user_at_the_same_moment(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    root = pwd.getpwuid(0)
    lookups = iter([False] * failures + [True])

    def look_up(name: str) -> pwd.struct_passwd:
        if not next(lookups):
            raise KeyError(name)
        return root

    monkeypatch.setattr(pwd, "getpwnam", look_up)

    assert servers._system_user() == root


@pytest.mark.usefixtures("failing_useradd")
def test_a_failing_useradd_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SYSTEM_USER", "missing-user")

    with pytest.raises(CannotStart, match=r"could not create the user missing-user.*cannot lock /etc/passwd"):
        servers._system_user()
