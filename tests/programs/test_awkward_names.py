"""Names are data: a catalogue of awkward ones goes through every program and every output, and none is interpreted."""

import csv
import json
import re
import unicodedata
from html import unescape
from pathlib import Path
from typing import Any

import hydra
import pytest
from factories import composed, fitting, make_catalogue
from http_service import service_of, serving
from omegaconf import OmegaConf
from PIL import Image

from ctl_lightning.evaluate import evaluate
from ctl_lightning.paper import paper
from ctl_lightning.prepare import prepare
from ctl_lightning.recommend import recommend
from ctl_lightning.rerank import rerank
from ctl_lightning.runtime.config import config_dir, literal
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.words import quoted, spelled_out
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.export import export
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.page import build_page, put_on
from ctl_lightning.serving.recommender import Recommender
from ctl_lightning.sweep_table import sweep_table
from ctl_lightning.train import train

CATEGORIES = [
    *(
        "Lamps ${oc.env:HOME}",
        "${data.root}",
        "???",
        "${",
        "\\${x}",
        "$\\alpha$ $$",
        "$x_{",
        "a_b^c",
        "%(name)s {0} {}",
    ),
    *("<b>Sofas</b>", "<script>alert(1)</script>", "&amp; & ' \"", "[bold]Rugs[/bold]", "[/]", ":smile:", "[a, b]"),
    *(
        "a,b",
        "a/b",
        "../up",
        "C:\\new\\table",
        "all",
        "seen",
        "unseen",
        "auc",
        "null",
        "1e5",
        "12_3",
        "=1+1",
        "# a | b",
    ),
    *(
        "Room|",
        "|",
        "Room|Sofas",
        "House|Sofas",
        "_hidden",
        "-m",
        "Sofas",
        "sofas",
        "café",
        unicodedata.normalize("NFD", "café"),
    ),
    *("कुर्सी", "โคมไฟ", "நாற்காலி", "مصباح كبير", "כורסה \u202eabc", "👩‍👩‍👧 🛋️", "灯", "'; DROP TABLE products; --"),
    *("n" * 300, "two words " * 29 + "and ten", "CON", "~", "*?", "`ls`", "$(ls)", "a  b", "in\u00a0ner"),
]
IDS = [
    *(
        "${oc.env:HOME}",
        "${x",
        "???",
        "null",
        "1e5",
        "12_3",
        "no",
        "it's",
        '"',
        "a,b",
        "[x]",
        "{y}",
        "(z)",
        "<b>bold<b>",
    ),
    *(
        "&amp;",
        "$x_{",
        "%s {}",
        "#1",
        "a;b",
        "a=b",
        "a:b",
        ":smile:",
        "[red]",
        "~",
        "-m",
        "*?",
        "a@0.1,0.5,0.8,0.9",
        "`ls`",
    ),
    *(
        "कुर्सी",
        "โคมไฟ",
        "மேசை",
        "مصباح",
        "a\u202eb",
        "👩‍👩‍👧",
        "灯",
        "café",
        unicodedata.normalize("NFD", "cafés"),
        "n" * 240,
    ),
    *("p.jpg", "a.b.c", "Upper", "upper", "two  words", "'; DROP TABLE products; --", "a|b", "=1+1", "CON", "all"),
]

SIZES = ["backbone=small", "data.stored_size=36", "data.image_size=32", "data.batch_size=8", "backbone.grid=4"]
QUICK = [
    *SIZES,
    "trainer=cpu",
    "trainer.max_epochs=1",
    "callbacks=quiet",
    "trainer.enable_progress_bar=false",
    "model.dim=16",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of looks: three products and four scenes a category, and one of each with an awkward id."""
    root = tmp_path_factory.mktemp("home ${x} 'q'")
    (root / "images").mkdir()
    pairs: list[dict[str, object]] = []
    catalogue: dict[str, str] = {}
    for number, category in enumerate(CATEGORIES):
        for kind, count in (("p", 3), ("s", 4)):
            for one in range(count):
                colour = (number * 5 % 256, 80 * one % 256, 255 * (kind == "p"))
                Image.new("RGB", (40, 50), colour).save(root / "images" / f"{kind}{number}-{one}.png")
        catalogue |= {f"p{number}-{one}": category for one in range(3)}
        if number < len(IDS):
            for name in (IDS[number], f"{IDS[number]} s"):
                Image.new("RGB", (40, 50), (number * 5, 9, 99)).save(root / "images" / f"{name}.png")
            catalogue[IDS[number]] = category
            pairs.append({"scene": f"{IDS[number]} s", "product": IDS[number], "bbox": [0.1, 0.5, 0.8, 0.9]})
        pairs += [
            {"scene": f"s{number}-{one}", "product": f"p{number}-{one % 3}", "bbox": [0.1, 0.5, 0.8, 0.9]}
            for one in range(4)
        ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (root / "categories.json").write_text(json.dumps(catalogue))
    return root


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    folder = home.parent / "run {1}"
    loggers = ["logger=[wandb,tensorboard]", "logger.wandb.offline=true", "watch_epochs=1"]
    words = ["data=folder", f"data.root={home}", f"paths.cache_dir={home.parent / 'cache'}", "protocol=folder"]
    train(composed("train", folder, "+experiment=hybrid", *fitting([*words, *QUICK]), *loggers))
    return folder


@pytest.fixture(scope="module")
def catalogue(run: Path) -> Path:
    return make_catalogue(run, run.parent / "catalogue [0]")


def names_of(path: Path) -> set[str]:
    return set(json.loads(path.read_text())["test"]["by_category"])


def counted(plain: int) -> dict[str, int]:
    """So many of each category, and one more of those with an awkward id."""
    return {category: plain + (number < len(IDS)) for number, category in enumerate(CATEGORIES)}


@pytest.mark.long
def test_prepare_counts_every_category(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(
        composed(
            "prepare",
            tmp_path,
            "data=folder",
            f"data.root={home}",
            f"paths.cache_dir={home.parent / 'cache'}",
            "data.stored_size=16",  # as small as the photos, or a warning says that they are
            "data.image_size=16",
        )
    )
    assert json.loads((tmp_path / "summary.json").read_text())["by_category"] == counted(4)
    assert not caplog.records


@pytest.mark.long
def test_a_training_carries_every_category_into_results_tables_pictures_and_loggers(home: Path, run: Path) -> None:
    found = names_of(run / "results.json")
    assert found <= {*CATEGORIES}
    assert len(found) > 10
    with (run / "pairs.csv").open(newline="") as lines:
        assert {row["category"] for row in csv.DictReader(lines)} == found
    with (run / "tables" / "test_categories.csv").open(newline="") as lines:
        assert {row["category"] for row in csv.DictReader(lines)} == found
    pictures = {"retrieval", "classifier", "categories", "distances", "confusion", "embedding", "attention", "curves"}
    assert {path.stem for path in (run / "pictures").glob("*.png")} == pictures
    assert len(list((run / "pictures" / "epochs").glob("*.png"))) == 2
    assert list((run / "wandb").rglob("run-*.wandb"))
    assert list((run / "wandb").rglob("*confusion*.table.json"))
    assert list((run / "tensorboard").glob("events.*"))
    assert list((run / "tensorboard").rglob("metadata.tsv"))
    options: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
    assert options["data"]["root"] == str(home)


@pytest.mark.long
def test_evaluate_measures_the_same_categories(run: Path, tmp_path: Path) -> None:
    evaluate(composed("evaluate", tmp_path, f"ckpt_path={run}", f"against={run}"))
    assert names_of(tmp_path / "results.json") == names_of(run / "results.json")
    assert (tmp_path / "pictures" / "categories.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("backend", ["exact", "faiss", "qdrant"])
def test_a_catalogue_of_every_backend_has_every_category(run: Path, tmp_path: Path, backend: str) -> None:
    more = ["catalogue.hnsw_from=2"] if backend == "faiss" else []
    folder = make_catalogue(run, tmp_path / "catalogue", f"catalogue.backend={backend}", *more)
    recommender = Recommender.from_checkpoint(run, folder)
    assert recommender.catalogue.counts == counted(3)
    look = recommender.look(photo(tmp_path), None, 5)
    assert {answer.category: len(answer.products) for answer in look.answers} == counted(3)


def photo(folder: Path) -> Path:
    """A photo whose own name is awkward."""
    path = folder / "it's ${a} $x$ <b> [c] 灯.png"
    Image.new("RGB", (50, 60), (200, 30, 30)).save(path)
    return path


@pytest.mark.long
@pytest.mark.parametrize("name", CATEGORIES, ids=range(len(CATEGORIES)))
def test_a_look_of_a_category_is_of_that_category(run: Path, catalogue: Path, tmp_path: Path, name: str) -> None:
    word = name if name[0] not in "['\"" and name not in ("null", "???") else quoted(name)
    words = [f"ckpt_path={run}", f"catalogue={catalogue}", f"scene={photo(tmp_path)}"]
    for ending in ("json", "html", "png"):
        output = f"output={tmp_path / 'look'}.{ending}"
        recommend(composed("recommend", tmp_path / "look", *words, f"category={word}", "k=5", output))
    (answer,) = json.loads((tmp_path / "look.json").read_text())["categories"]
    assert answer["category"] == name
    number = CATEGORIES.index(name)
    own = {f"p{number}-{one}" for one in range(3)} | {*IDS[number : number + 1]}
    assert {one["product"] for one in answer["products"]} == own
    page = (tmp_path / "look.html").read_text()
    (shown,) = re.findall("<section id='category-[0-9]+' data-category='([^']*)'>", page)
    assert unescape(shown) == name
    assert "<script" not in page.partition("</style>")[2]
    if name == "???":
        return  # to Hydra a missing value: the programs ask for one, see docs/command_line.md
    candidates = tmp_path / "candidates.txt"
    candidates.write_text("".join(f"{one}\n" for one in sorted(own)))
    rerank(
        composed("rerank", tmp_path / "rerank", *[words[0], words[2]], f"category={word}", f"candidates={candidates}")
    )
    told = json.loads((tmp_path / "rerank" / "rerank.json").read_text())
    assert (told["category"], {one["candidate"] for one in told["order"]}) == (name, own)


@pytest.mark.long
def test_a_look_of_all_categories_is_drawn_and_written(run: Path, catalogue: Path, tmp_path: Path) -> None:
    words = [f"ckpt_path={run}", f"catalogue={catalogue}", f"scene={photo(tmp_path)}"]
    for ending in ("json", "html", "png"):
        recommend(composed("recommend", tmp_path / "look", *words, f"output={tmp_path / 'all'}.{ending}"))
    data = json.loads((tmp_path / "all.json").read_text())
    assert sorted(answer["category"] for answer in data["categories"]) == sorted(CATEGORIES)
    told = re.findall("<section id='category-[0-9]+' data-category='([^']*)'>", (tmp_path / "all.html").read_text())
    assert sorted(map(unescape, told)) == sorted(CATEGORIES)
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.height < 8000


@pytest.mark.long
def test_the_page_offers_every_category_and_answers_for_it(run: Path, catalogue: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    service = service_of(Recommender.from_checkpoint(run, catalogue), catalogue)
    app = create_app(service)
    put_on(app, build_page(service, [], 2), 2**20)
    with serving(app) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        answer = client.predict(handle_file(photo(tmp_path)), CATEGORIES, 2, api_name="/complete")
    (found,) = [part for part in answer if isinstance(part, str) and "class='card'" in part]
    assert (
        list(map(unescape, re.findall("<section id='category-[0-9]+' data-category='([^']*)'>", found))) == CATEGORIES
    )


@pytest.mark.long
def test_an_export_lists_every_category(run: Path, tmp_path: Path) -> None:
    export(Encoder(run), tmp_path, onnx=False)
    assert json.loads((tmp_path / "serving.json").read_text())["categories"] == sorted(CATEGORIES)


@pytest.mark.long
def test_a_sweep_over_categories_names_them_in_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(CATEGORIES):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        word = f"data.exclude_categories=[{quoted(name)}]"
        OmegaConf.save(OmegaConf.create([literal(word)]), tmp_path / str(number) / ".hydra" / "overrides.yaml")
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("sweep_table", spelled_out([f"folder={tmp_path}"], "sweep_table"))
    with pytest.raises(InputError, match="jobs have no results"):
        sweep_table(config)
    with (tmp_path / "sweep.csv").open(newline="") as lines:
        assert len(list(csv.reader(lines))) == 1 + len(CATEGORIES)
    assert "[bold]Rugs[/bold]" in capsys.readouterr().out


@pytest.mark.long
def test_the_paper_table_of_such_data(home: Path, tmp_path: Path) -> None:
    sizes = [f'"{word}"' for word in QUICK if not word.startswith(("model", "callbacks", "trainer.enable"))]
    (tmp_path / "plain").symlink_to(home)  # Hydra would read this list's text
    words = [
        f"overrides.folder=['data.root={tmp_path / 'plain'}',{','.join(sizes)}]",
        f"paths.cache_dir={home.parent / 'cache'}",
    ]
    paper(
        composed(
            "paper",
            tmp_path,
            "methods=[popularity]",
            "protocols=[folder]",
            "seeds=[0]",
            "product_visible=false",
            *words,
        )
    )
    assert "| `popularity` | 1 |" in (tmp_path / "table.md").read_text()
