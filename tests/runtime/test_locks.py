import errno
import fcntl
import logging
from pathlib import Path
from typing import NoReturn

import pytest

from ctl_lightning.runtime.errors import InUseError
from ctl_lightning.runtime.files import replacing, write_text
from ctl_lightning.runtime.locks import alone, in_turn
from ctl_lightning.runtime.program import one_line


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> NoReturn:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_one_holds_a_lock_and_another_is_refused(tmp_path: Path) -> None:
    for _ in range(2):  # and it is free again afterwards
        with (
            alone(tmp_path / ".lock", "busy"),
            pytest.raises(InUseError, match="busy"),
            alone(tmp_path / ".lock", "busy"),
        ):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_mark_says_who_works_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    without_locks(monkeypatch, number)
    for _ in range(2):
        with alone(tmp_path / ".lock", "busy"):
            assert (tmp_path / ".lock.held").exists()
            with pytest.raises(InUseError, match="busy"), alone(tmp_path / ".lock", "busy"):
                pass
        assert not (tmp_path / ".lock.held").exists()
    with in_turn(tmp_path / ".lock", "waiting"):
        pass
    assert f"{tmp_path / '.lock'} cannot be locked: this file system has no locks" in caplog.text


def test_the_mark_of_a_process_that_is_dead_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    with alone(tmp_path / ".lock", "busy"):
        written = (tmp_path / ".lock.held").read_text()
    dead = "\n".join([str(2**22 - 3), *written.split("\n")[1:]])
    (tmp_path / ".lock.held").write_text(dead)
    with alone(tmp_path / ".lock", "busy"):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_another_error_of_a_lock_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    without_locks(monkeypatch, number)
    with pytest.raises(OSError) as caught, alone(tmp_path / ".lock", "busy"):  # noqa: PT011 - the number is the point
        pass
    assert caught.value.errno == number
    assert one_line(caught.value, "train", []).startswith(f"{tmp_path / '.lock'}: no; choose another place with")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_an_error_of_a_write_names_the_file_and_leaves_the_old_one(tmp_path: Path, number: int) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        full(path, number)
    assert one_line(caught.value, "train", []).startswith(f"{path}: no; choose another place with")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["results.json"]


def test_an_error_of_a_renaming_names_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there", tmp_path / ("n" * 300)):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            write_text(path, "new")
        assert one_line(caught.value, "train", []).startswith(f"{path}: {caught.value.strerror}; ")


def full(path: Path, number: int) -> None:
    with replacing(path) as temporary:
        temporary.write_text("ne")
        raise OSError(number, "no")


def test_a_free_lock_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with in_turn(tmp_path / ".lock", "waiting for it"):
        pass
    assert not caplog.records
