import os

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ctl_lightning.runtime.config import config_dir, literal, option_names
from ctl_lightning.runtime.words import NAMES, TEXTS, quoted, spelled_out

TYPED = [
    *(
        "12_3",
        "1e5",
        "0x10",
        "2026_11_27",
        "2026-11-27",
        "no",
        "true",
        "nan",
        "{a,b}",
        "{a: 1}",
        "a b",
        "a,b",
        "it's",
        '"',
        "'",
    ),
    *(
        "a=b",
        "(1)",
        "[1",
        "$",
        "\\",
        "a\\'",
        "a\\",
        "~",
        "ключ",
        "कुर्सी",
        "😀",
        "choice(a,b)",
        "a:b",
        "%(x)s",
        "a\\\\'b\\\\",
    ),
]


def composed(word: str, program: str = "recommend") -> object:
    (spelled,) = spelled_out([word], program)
    override = OverridesParser.create().parse_override(spelled)
    return OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)["x"]  # type: ignore[index,call-overload]


@pytest.mark.parametrize("text", TYPED)
@pytest.mark.parametrize("option", ["scene", "output", "category", "hydra.run.dir", "catalogue"])
def test_ids_names_and_paths_are_taken_as_they_were_typed(option: str, text: str) -> None:
    assert composed(f"{option}={text}") == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: text[0] not in "'\"["))
def test_any_name_is_taken_as_it_was_typed(text: str) -> None:
    if text not in ("null", "???"):
        assert composed(f"category={text}") == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_quoted_text_is_the_text(text: str) -> None:
    assert OverridesParser.create().parse_override(f"x={quoted(text)}").value() == text


@given(st.text(st.sampled_from("\\${}ab:. '\"?")))
def test_a_literal_text_is_not_interpreted_by_omegaconf(text: str) -> None:
    if text != "???":
        assert OmegaConf.to_container(OmegaConf.create({"x": literal(text)}), resolve=True) == {"x": text}


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "Sofas ${x}", "\\${x}", "${", "$${a}"])
def test_a_name_is_no_reference_and_a_path_may_be_one(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert composed(f"scene={text}") == text
    monkeypatch.setenv("PHOTOS", "/mnt")
    assert composed("output=${oc.env:PHOTOS}/look.png") == "/mnt/look.png"
    assert composed(f"output={text}") == (text if "oc.env" not in text else os.environ["HOME"])
    assert spelled_out(["output=${paths.output_dir}/look.png"], "recommend") == ["output=${paths.output_dir}/look.png"]


def test_lists_are_lists_of_texts_and_what_is_in_quotes_stays() -> None:
    assert composed("category=[12_3,no,'a, b',\"it's\",{x}]") == ["12_3", "no", "a, b", "it's", "{x}"]
    assert composed("category='a,b'") == "a,b"
    assert composed("scene='12_3'") == "12_3"


def test_null_is_a_name_only_where_a_value_is_needed() -> None:
    assert composed("scene=null") == "null"
    assert composed("category=null") is None
    assert composed("data.root=null", "evaluate") is None


def test_several_values_of_a_multirun_are_texts_each() -> None:
    words = spelled_out(["-m", "data.root=12_3,b", "seed=0,1", "backbone.weights=choice(a,b)"], "train")
    assert words == ["-m", "data.root='12_3',b", "seed=0,1", "backbone.weights=choice(a,b)"]


# Neither ids nor names nor paths: choices that a config lists, or numbers that may be null.
OTHERS = {
    *(f"backbone.preprocessing.{name}" for name in ("mean", "std", "size", "interpolation", "crop_share")),
    *("backbone.library", "backbone.layers", "folds", "variants"),
    *("accelerator", "box", "change", "max_bad_images", "method", "precision", "protocol", "what", "watch_epochs"),
    *(
        "catalogue.backend",
        "catalogue.hnsw_build",
        "catalogue.hnsw_from",
        "catalogue.hnsw_links",
        "catalogue.hnsw_search",
    ),
    *(
        "download.requests_per_second",
        "data.aspect",
        "data.image_size",
        "data.interpolation",
        "data.stored_size",
        "data.augment",
        "data.max_bad_images",
        "data.negatives",
        "data.store",
    ),
    *("data.scene", "data.boxes", "backbone.pooled", "backbone.stage_layers", "model.heads"),
    *("data.twins", "data.folds", "data.fold", "data.train_share"),
    *("data.eval_batch_size", "data.num_workers", "data.source.published", "data.source.name"),
    *("data", "data.source", "data.margin", "data.min_area", "data.same_category", "data.batch_size"),
    *("backbone.cache_views", "backbone.learning_rate", "logger", "sweep"),
    *(
        "trainer.accelerator",
        "trainer.deterministic",
        "trainer.gradient_clip_val",
        "trainer.precision",
        "trainer.strategy",
    ),
    *("trainer.devices", "trainer.num_nodes", "data.seed", "backbone.cache", "backbone.cache_dtype"),
    *("callbacks.learning_rate.logging_interval", "engine", "batch_size", "keep_memory"),
}


@pytest.mark.parametrize(
    "words",
    [
        *([path.stem] for path in sorted(config_dir().glob("*.yaml"))),
        *(["train", f"{path.parent.name}={path.stem}"] for path in sorted(config_dir().glob("[bdl]*/*.yaml"))),
    ],
    ids=" ".join,
)
def test_every_option_that_may_be_a_text_is_known_as_one_or_as_something_else(words: list[str]) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose(words[0], words[1:]), resolve=False)
    found = set()
    for option in option_names(config):  # type: ignore[arg-type]
        value: object = config
        for part in option.split("."):
            value = value[part]  # type: ignore[index]
        if (value is None or isinstance(value, str)) and not option.endswith("_target_"):
            found.add(option)
    unknown = {
        option for option in found if option not in TEXTS | OTHERS and not option.startswith(("model.", "loss."))
    }
    assert not unknown


def test_names_are_texts() -> None:
    assert NAMES <= TEXTS
