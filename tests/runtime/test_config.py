import re
import sys
from pathlib import Path

import hydra
import pytest
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.runtime.config import build, check_names, check_values, config_dir
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.program import EXTRAS, one_line

ALL = sorted(path.relative_to(config_dir()) for path in config_dir().rglob("*.yaml"))
GROUPS = (
    "data",
    "model",
    "loss",
    "backbone",
    "trainer",
    "callbacks",
    "logger",
    "protocol",
    "experiment",
    "sweep",
    "hydra",
)


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("train", ["paths.run_dir=run", *overrides])


def test_there_are_configs() -> None:
    assert len(ALL) > 20
    assert {path.parts[0] for path in ALL if len(path.parts) > 1} == set(GROUPS)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_every_config_says_what_it_is_for_and_the_command(path: Path) -> None:
    header = (config_dir() / path).read_text().split("\n\n")[0]
    assert header.startswith("# ")
    assert "python -m ctl_lightning." in header


@pytest.mark.parametrize("path", [path for path in ALL if len(path.parts) == 2 and path.stem != "default"], ids=str)
def test_every_choice_composes_and_has_only_known_options(path: Path) -> None:
    group, choice = path.parts[0], path.stem
    plus = "+" if group == "experiment" else ""
    config = compose(
        f"{plus}{group}={choice}", "data.root=x", *(["backbone.name=test_vit"] if choice == "timm" else [])
    )
    check_values(check_names("train", config))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("sweep_table", ["+paths.foo=null", "folder=x"]),
        ("evaluate", ["+data.foo=null", "ckpt_path=run", "paths.run_dir=run"]),
        ("evaluate", ["+data.foo=null", "ckpt_path=run", "paths.run_dir=run", "data=folder", "data.root=x"]),
        ("train", ["+paths.foo=null", "paths.run_dir=run"]),
    ],
)
def test_an_unknown_option_is_refused_also_without_a_value(program: str, words: list[str]) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose(program, words)
    with pytest.raises(InputError, match=r"there is no option '(paths|data)\.foo'"):
        check_names(program, config)


EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("protocol", ["synthetic", "stl_fashion"])
def test_methods_times_protocols(experiment: str, protocol: str) -> None:
    config = compose(f"+experiment={experiment}", f"protocol={protocol}")
    assert config.method == experiment
    assert config.protocol == protocol
    assert config.backbone.name == {"synthetic": "small", "stl_fashion": "resnet50"}[protocol]


def test_the_command_line_wins_over_protocol_and_experiment() -> None:
    config = compose(
        "protocol=stl_fashion", "backbone=mobilenet_v2", "+experiment=local", "model=global", "data.batch_size=3"
    )
    assert (config.backbone.name, config.model.method, config.data.batch_size) == ("mobilenet_v2", "global", 3)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("modle.dim=1", r"no option 'modle\.dim'; did you mean 'model\.dim'\?"),
        ("margin=1", r"no option 'margin'; did you mean '(data|loss)\.margin'\?"),
        ("trainer.max_epoch=1", r"did you mean 'trainer\.max_epochs'\?"),
        (
            "+experiment=hybird",
            "no experiment=hybird; did you mean 'hybrid'.*there are: bpr_dae, geometry, global, hybrid, hybrid_uniform, ibr, imagenet",
        ),
        ("experiment=hybrid", r"write \+experiment=NAME"),
        ("protocoll=stl_fashion", "no option 'protocoll'|did you mean 'protocol'"),
        ("data=synthetics", "no data=synthetics; did you mean 'synthetic'"),
        ("stl_fashion", "cannot read the option stl_fashion: write NAME=VALUE"),
        ("data.root=~/photos", r"cannot read the option data\.root=~/photos: .*write \$HOME"),
    ],
)
def test_a_typo_in_an_override_says_what_was_probably_meant(override: str, says: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra's own classes
        compose(override)
    message = one_line(caught.value, "train", [override])
    assert re.search(says, message), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+experimnt=hybrid", "no option or group 'experimnt'; did you mean 'experiment'"),
        ("+model.hiden=1", r"no option 'model\.hiden'; did you mean 'hidden'"),
        ("+data.source.scene=1", r"no option 'data\.source\.scene'; did you mean 'scenes'"),
        ("+trainer.max_epoch=1", r"no option 'trainer\.max_epoch'; did you mean 'max_epochs'"),
        ("+backbone.weight=x", r"model\.backbone\.weight='x': extra inputs"),
        ("loss.margin=abc", r"model\.loss\.margin='abc': input should be a valid number"),
        ("model.attention=categroy", r"should be 'category' or 'uniform'; did you mean 'category'"),
        ("data.negatives=uniforn", r"data\.negatives='uniforn': .*did you mean 'uniform'"),
        ("loss.mining=semihard loss=in_batch_triplet", r"model\.loss\.mining='semihard': .*did you mean 'semi_hard'"),
        ("loss.temperature=abc loss=info_nce", r"model\.loss\.temperature='abc': input should be a valid number"),
        ("data.batch_size=1.5", r"data\.batch_size=1\.5: input should be a valid integer"),
        ("trainer.max_epochs=many", r"trainer\.max_epochs='many'"),
        ("+paths.cachedir=x", r"no option 'paths\.cachedir'; did you mean 'cache_dir'"),
        ("model.loss=info_nce", r"model\.loss='info_nce': input should be a valid dictionary"),
        ("model.loss=null", r"model\.loss=None: input should be a valid dictionary"),
        ("data.source=folder", r"data\.source='folder': input should be a valid dictionary"),
        ("backbone.frozen=3", r"model\.backbone\.frozen=3: input should be a valid boolean"),
    ],
)
def test_unknown_options_and_wrong_types_are_refused_before_any_work(override: str, says: str) -> None:
    config = compose(*override.split())
    with pytest.raises(InputError, match=says):
        check_values(check_names("train", config))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["loss=in_batch_triplet", "loss.minning=hardest"], "did you mean 'loss.mining'"),
        (["loss=info_nce", "loss.margin=0.2"], "there is no option 'loss.margin'; did you mean 'data.margin'"),
        (["loss=info_nce", "loss.temprature=0.2"], "did you mean 'loss.temperature'"),
    ],
)
def test_a_suggestion_is_of_the_groups_that_were_chosen(
    monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *words])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra's own classes
        compose(*words)
    assert says in one_line(caught.value, "train")


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "parallel"), ("submitit_slurm", "slurm")])
def test_a_launcher_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, launcher: str, extra: str
) -> None:
    monkeypatch.setitem(EXTRAS, "hydra/launcher/of_nobody", "nothing")
    with pytest.raises(MissingConfigException) as caught:
        compose("hydra/launcher=of_nobody")
    assert "pip install 'ctl_lightning[nothing]'" in one_line(caught.value, "train")
    assert EXTRAS[f"hydra/launcher/{launcher}"] == extra


def test_a_value_that_an_object_refuses_is_one_line() -> None:
    config = compose("data.margin=2.0")
    with pytest.raises(InputError, match=r"data: margin must be in \[0, 1\), not 2"):
        build(config.data, "data")


@pytest.mark.parametrize("node", ["word", {"a": 1}])
def test_what_describes_no_object_is_one_line(node: object) -> None:
    config = OmegaConf.create({"node": node})
    with pytest.raises(InputError, match=r"callbacks\.x=.*: expected options with a _target_"):
        build(config.node, "callbacks.x")


def test_build_makes_the_object() -> None:
    data = build(compose().data, "data")
    assert isinstance(data, TripletDataModule)


def test_a_suggestion_is_made_only_for_something_near() -> None:
    assert suggestion("hybird", ["hybrid", "local"]) == "; did you mean 'hybrid'?"
    assert suggestion("zzz", ["hybrid", "local"]) == ""
