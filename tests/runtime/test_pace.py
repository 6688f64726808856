"""Threads wait passively where other work needs the cores, and never against what the user has set."""

import os
import sys
from pathlib import Path

import pytest

from ctl_lightning.runtime import pace


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two cores, nothing set."""
    for name in (pace.WAIT_POLICY, pace.CHOSEN, "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        # Set first, so that what is chosen is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(pace, "allowed_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return monkeypatch


@pytest.mark.parametrize(
    ("load", "threads", "chosen"),
    [
        (0.0, None, None),
        (0.4, None, None),
        (0.8, None, "PASSIVE"),
        (2.0, None, "PASSIVE"),
        (9.0, "1", None),
        (1.9, "2", "PASSIVE"),
    ],
)
def test_what_is_chosen(
    machine: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    load: float,
    threads: str | None,
    chosen: str | None,
) -> None:
    machine.setattr(pace, "other_load", lambda: load)
    if threads is not None:
        machine.setenv("OMP_NUM_THREADS", threads)
    pace.settle_pace()
    assert os.environ.get(pace.WAIT_POLICY) == chosen
    said = capsys.readouterr().out
    assert said.count("\n") == (chosen is not None)
    assert ("OMP_WAIT_POLICY=ACTIVE" in said) == (chosen is not None)


@pytest.mark.parametrize(("load", "chosen"), [(60.0, None), (61.0, None), (63.0, "PASSIVE")])
def test_work_that_others_do_on_their_own_cores_is_in_nobodys_way(
    machine: pytest.MonkeyPatch, load: float, chosen: str | None
) -> None:
    machine.setattr(os, "cpu_count", lambda: 64)
    machine.setattr(pace, "allowed_cores", lambda: 4)
    machine.setattr(pace, "other_load", lambda: load - 0.6)
    pace.settle_pace()
    assert os.environ.get(pace.WAIT_POLICY) == chosen


@pytest.mark.parametrize(("load", "chosen"), [(0.0, None), (2.0, "PASSIVE")])
def test_a_program_that_another_one_started_chooses_anew(
    machine: pytest.MonkeyPatch, load: float, chosen: str | None
) -> None:
    machine.setattr(pace, "other_load", lambda: 9.0)
    pace.settle_pace()
    assert os.environ[pace.WAIT_POLICY] == "PASSIVE"
    machine.setattr(pace, "other_load", lambda: load)
    pace.settle_pace()
    assert os.environ.get(pace.WAIT_POLICY) == chosen
    assert (pace.CHOSEN in os.environ) == (chosen is not None)


def test_nothing_is_chosen_or_told_when_torch_is_loaded(
    machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.setitem(sys.modules, "torch", sys)
    machine.setattr(pace, "other_load", lambda: 9.0)
    pace.settle_pace()
    assert pace.WAIT_POLICY not in os.environ
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000")])
def test_what_the_user_has_set_stays(machine: pytest.MonkeyPatch, name: str, value: str) -> None:
    machine.setattr(pace, "other_load", lambda: 9.0)
    machine.setenv(name, value)
    pace.settle_pace()
    assert os.environ[name] == value
    assert os.environ.get(pace.WAIT_POLICY, "ACTIVE") == "ACTIVE"


def test_what_ended_a_moment_ago_and_what_is_over_in_a_moment_do_not_count(machine: pytest.MonkeyPatch) -> None:
    for average, running, expected in ((2.0, 1, 0.0), (0.1, 3, 0.1), (2.5, 3, 2.0)):
        machine.setattr(os, "getloadavg", lambda average=average: (average, 0.0, 0.0))
        machine.setattr(Path, "read_text", lambda *_, running=running: f"1.00 1.00 1.00 {running}/90 4711\n")
        assert pace.other_load() == expected


def test_a_system_that_does_not_tell_is_idle(machine: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise OSError

    machine.setattr(os, "getloadavg", unknown)
    assert pace.other_load() == 0.0
