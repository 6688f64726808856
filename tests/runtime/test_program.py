"""The programs answer before anything heavy is imported."""

import subprocess
import sys
from io import BytesIO, TextIOWrapper

import pytest
from factories import LATE, PROGRAMS

from ctl_lightning.runtime import program as programs

ANSWER = f"""
import importlib, sys
name, *words = sys.argv[1:]
sys.argv = [name, *words]
try:
    importlib.import_module(f"ctl_lightning.{{name}}").main()
except SystemExit as end:
    print("code", end.code or 0)
else:
    print("code 0")
print("heavy", sorted({{*{LATE!r}, "numpy", "matplotlib", "PIL", "gradio", "optuna"}} & {{*sys.modules}}))
"""


def answer(*words: str) -> tuple[str, str]:
    """What a program prints and says of an error; it ran in a process of its own."""
    found = subprocess.run([sys.executable, "-c", ANSWER, *words], capture_output=True, text=True, check=False)
    return found.stdout, found.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_a_typo_are_answered_before_torch_is_imported(program: str) -> None:
    said, _ = answer(program, "--help")
    assert f"python -m ctl_lightning.{program}" in said
    assert "Options, changed with OPTION=VALUE" in said
    assert said.endswith("code 0\nheavy []\n")
    said, wrong = answer(program, "paths.no_such_option=1")
    assert (
        wrong == f"{program}: there is no option 'paths.no_such_option'; all options: --cfg job\n"
        or "did you mean" in wrong
    )
    assert said.endswith("code 1\nheavy []\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--cfg", "job"), "loyalty: 0.95"),
        (("train", "+experiment=hybird"), "train: there is no experiment=hybird; did you mean 'hybrid'?"),
        (("train", "experiment=hybrid"), "train: write +experiment=NAME: experiment is not chosen by default"),
        (("train", "+experimnt=hybrid"), "train: there is no option or group 'experimnt'; did you mean 'experiment'?"),
        (("train", "model=siamese", "model.hidden=3"), "train: there is no option 'model.hidden'"),
        (("evaluate",), "evaluate: ckpt_path has no value; give one with ckpt_path=VALUE"),
        (("recommend", "ckpt_path=x", "scene=y"), "recommend: catalogue has no value"),
        (("prepare", "data=folder"), "prepare: data.root has no value"),
        (("train", "data.root"), "train: cannot read the option data.root"),
    ],
)
def test_choices_names_and_missing_values_are_checked_before_torch_is_imported(
    words: tuple[str, ...], says: str
) -> None:
    said, wrong = answer(*words)
    assert says in said + wrong
    assert said.endswith("heavy []\n")
    assert wrong.count("\n") <= 1


def test_help_names_the_choices_and_what_the_options_mean() -> None:
    said, _ = answer("train", "-h")
    assert "  +experiment: bpr_dae, global, hybrid" in said
    assert "  loss: bpr, contrastive, in_batch_triplet" in said
    assert "seed: 0 # of initial weights" in said
    assert "defaults:" not in said
    assert "override" not in said


def test_the_package_itself_imports_nothing_and_has_its_public_names() -> None:
    code = "import sys, ctl_lightning; print([name for name in sys.modules if '.' not in name and name in ('torch', 'hydra', 'numpy')])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"
    import ctl_lightning

    for name in ctl_lightning.__all__:
        assert getattr(ctl_lightning, name).__module__.startswith("ctl_lightning.")
        assert name in dir(ctl_lightning)
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        _ = ctl_lightning.Nobody


def test_a_file_name_that_is_no_text_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(printed, encoding="utf-8"))
    monkeypatch.setattr(sys, "argv", ["recommend"])
    programs._run("recommend", lambda: print("caf\udce9.jpg", flush=True))
    assert printed.getvalue() == b"caf\\udce9.jpg\n"
