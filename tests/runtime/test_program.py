"""The programs answer before anything heavy is imported."""

import subprocess
import sys
from importlib.metadata import version
from io import BytesIO, TextIOWrapper
from pathlib import Path

import cloudpickle
import pytest
from factories import LATE, PROGRAMS
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctl_lightning import train
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
        (("train", "protocol=hybrid"), "train: there is no protocol=hybrid, but model=hybrid and +experiment=hybrid;"),
        (("evaluate", "data=hybrid"), "evaluate: there is no data=hybrid; there are: deepfurniture"),
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
    assert "  +experiment: bpr_dae, geometry, global, hybrid" in said
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


def test_the_version_is_this_packages_and_is_read_when_it_is_asked_for() -> None:
    code = "import sys, ctl_lightning; print('importlib.metadata' in sys.modules, ctl_lightning.__version__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"False {version('ctl_lightning')}\n"
    assert answer("train", "--version") == (f"ctl_lightning {version('ctl_lightning')}\ncode 0\nheavy []\n", "")


def test_a_file_name_that_is_no_text_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(printed, encoding="utf-8"))
    monkeypatch.setattr(sys, "argv", ["recommend"])
    programs._run("recommend", lambda: print("caf\udce9.jpg", flush=True))
    assert printed.getvalue() == b"caf\\udce9.jpg\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--multirnu",), "there is no flag --multirnu; did you mean '--multirun'?"),
        (("-backbone=small",), "there is no flag -backbone=small"),
        (("--cfg", "nope"), "argument --cfg/-c: invalid choice: 'nope'"),
        (("--cfg",), "argument --cfg/-c: expected one argument"),
        (("-m", "--cfg", "job"), "Hydra cannot read these options (ValueError: Only one of"),
        (("data=true",), "Hydra cannot read these options (ValueError: Config group override must be a string"),
        (("data=null",), "Hydra cannot read these options (ValueError: Config group override must be a string"),
        ((f"paths={'[' * 300}1{']' * 300}",), "Hydra cannot read these options (RecursionError"),
        ((f"data.no={'x' * 5000}",), "there is no option 'data.no'"),
        ((f"{'x' * 5000}=1",), " … "),
    ],
)
def test_words_that_only_hydra_reads_are_refused_in_one_line_with_exit_code_1(
    words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *words])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        train.main()
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert said.startswith("train: ")
    assert says in said
    assert said.count("\n") == 1
    assert len(said) < programs.LONGEST + 50


def test_an_error_of_the_work_itself_is_not_taken_for_one_of_the_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(config: DictConfig) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sys, "argv", ["sweep_table", f"folder={tmp_path}"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    GlobalHydra.instance().clear()
    with pytest.raises(RuntimeError, match="out of memory"):  # with its traceback, for who mends it
        programs.program("sweep_table")(work)()


def test_what_a_launcher_sends_to_another_process_can_be_sent() -> None:
    def work(config: DictConfig) -> None: ...

    assert cloudpickle.loads(cloudpickle.dumps(programs._checked("train", work)))


def test_flags_may_stand_anywhere_among_the_options() -> None:
    words = ["a=1", "--cfg", "job", "b=2", "-m", "c=3"]
    assert programs._flags_last(words) == ["a=1", "b=2", "c=3", "--cfg", "job", "-m"]


def test_a_run_directory_that_cannot_be_named_is_one_line_and_no_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "paths=null"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit):
        train.main()
    assert capsys.readouterr().err.count("\n") == 1
    assert not [one for one in recwarn if "Callback" in str(one.message)]
