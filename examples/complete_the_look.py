# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Complete the look, on photos of your own
#
# A *look* is a photo of a person or a room, the *scene*, with the *products* in it. From a folder of looks this notebook trains
# a model that says which other products go with a scene: it checks the photos, trains for about two minutes on two CPU cores,
# reads the results, looks at the attention, recommends products for a photo, and exports the model to files that run
# without this package.
#
# The photos are drawn here, so that it runs as it is, and what is right is known. For photos of your own, change the second cell.
#
# `make install` installs all that it needs: open it in an editor with the Python of `.venv` as its kernel, or
# `.venv/bin/pip install jupyterlab` and `.venv/bin/jupyter lab examples`. `photos/`, `runs/` and `cache/` are made in the current folder.

# %%
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from IPython.display import Image as Shown
from PIL import Image, ImageOps

from ctl_lightning import Recommender
from ctl_lightning.data.sources.synthetic import SyntheticLooks
from ctl_lightning.serving.look import write_look


def ctl(program: str, *options: str) -> None:
    """Runs `python -m ctl_lightning.PROGRAM OPTIONS`, prints what it prints, and stops the notebook if it fails."""
    command = [sys.executable, "-m", f"ctl_lightning.{program}", *options]
    plain = os.environ | {"FORCE_COLOR": ""}  # Jupyter asks programs for colours and moving bars
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=plain
    ) as running:
        for line in running.stdout:
            print(line.replace(f"{Path.cwd()}{os.sep}", ""), end="")
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)


def show(path: Path, width: int = 900) -> Shown:
    """A picture in the notebook, at most `width` pixels wide."""
    picture, content = Image.open(path).convert("RGB"), io.BytesIO()
    picture.thumbnail((width, 4 * width))
    picture.save(content, "JPEG", quality=80)
    return Shown(content.getvalue())


# %% [markdown]
# **This is what to change.** `photos` is the folder of your looks. Photos are worth a pretrained network, whose features are
# computed once: `network = ["backbone=efficientnet_lite0", "backbone.frozen=true", "data.augment=none"]`.
# The drawings have a small network that learns from nothing, and `data.twins=keep` because none of them is there twice; photos often
# are, so leave it out for yours.

# %% tags=["parameters"]
photos = Path("photos")
scenes, variants, epochs = 6000, 5, 5
network = ["backbone=small", "data.stored_size=64", "data.image_size=56", "data.batch_size=64", "data.twins=keep"]

# %% [markdown]
# ## The photos
#
# If the folder is not there, looks are drawn into it: a figure in a hat, a top, a bag, pants and shoes, and the hats and shoes
# that are sold, each on white.

# %%
if not photos.exists():
    SyntheticLooks(scenes, variants, loyalty=0.95, seed=0).prepare(Path("drawn"))
    (drawn,) = Path("drawn").iterdir()
    (drawn / "fashion.json").rename(drawn / "pairs.jsonl")
    (drawn / "fashion-cat.json").rename(drawn / "categories.json")
    drawn.rename(photos)
    Path("drawn").rmdir()

# %% [markdown]
# That is the whole format: a line of `pairs.jsonl` says which product is in which scene and where (left, top, right, bottom, from
# 0 to 1), `categories.json` has the category of each product, and `images/` the photos, each named for its id.

# %%
pairs = [json.loads(line) for line in (photos / "pairs.jsonl").read_text().splitlines()]
categories = json.loads((photos / "categories.json").read_text())
print(f"{len(pairs)} pairs, {len(categories)} products, such as", json.dumps(pairs[0], indent=1))
print(*sorted(set(categories.values())), sep="\n")

# %% [markdown]
# `prepare` reads all of it, names every problem that it finds, packs the pictures, and draws some pairs: the scene with the box
# of its product, the *scene crop* that the network is shown in its place, and the product.

# %%
ctl("prepare", "data=folder", f"data.root={photos}", *network, "hydra.run.dir=runs/prepared")
show(Path("runs/prepared/crops.png"))

# %% [markdown]
# ## Training
#
# One command trains the paper's hybrid distance, keeps the epoch that is best on the validation scenes, and measures it on test
# scenes that it was not trained on. The same cell goes on where it was stopped; the first time there is nothing to go on with, as a
# line says. (What is printed below is from two CPU cores with other work beside.)

# %%
run = Path("runs/notebook")
ctl(
    "train",
    "+experiment=hybrid",
    "protocol=folder",
    f"data.root={photos}",
    *network,
    f"trainer.max_epochs={epochs}",
    f"hydra.run.dir={run}",
    "ckpt_path=auto",
)

# %% [markdown]
# ## Results
#
# `auc`: how often the chosen product is nearer to its scene than another one of its category; 0.5 is chance, and on these drawings
# no method can expect more than 0.91, because people follow the rules nineteen times in twenty. `lift`: how much of it comes from looking
# at the scene. *Unseen* products are in no training pair (here there are none). The 95 % intervals are over scenes.

# %%
results = json.loads((run / "results.json").read_text())
for metric in ("auc", "lift", "hit@10"):
    for group in ("all", "seen", "unseen"):
        found = results["test"][group][metric]
        if found["value"] is not None:
            print(f"{metric:7} {group:7} {found['value']:.3f}  [{found['low']:.3f}, {found['high']:.3f}]")

# %% [markdown]
# Each row is a test scene, the product that was chosen for it, and the ten nearest of its category; a green frame marks the chosen one.

# %%
show(run / "pictures" / "retrieval.png")

# %% [markdown]
# ## Attention
#
# A category chooses where the network looks in a scene: bright regions weigh most. Here a hat or a pair of shoes goes with the garment
# that its category names, so there is a right answer, which no label told it. After so short a training it has found the shoes and
# the top, and spreads over bags and pants. (These crops have lost their hats; crops that the categories of shoes are trained on have
# lost their shoes.)

# %%
show(run / "pictures" / "attention.png")

# %% [markdown]
# ## Recommending
#
# A catalogue holds the vectors of all products of the folder; `products=FILE images=DIR` would make one of others.

# %%
catalogue = Path("runs/catalogue")
ctl("catalogue", f"ckpt_path={run}", f"catalogue={catalogue}", "hydra.run.dir=runs/catalogue_log")

# %% [markdown]
# Any photo will do; this one is of a test scene. The box says what is to be replaced: it is cut away, as in training. The smaller
# the distance, the better a product goes with the rest.

# %%
recommender = Recommender.from_checkpoint(run, catalogue)
split = json.loads((run / "split.json").read_text())["split_of_scene"]
category = recommender.categories[0]
tested = next(pair for pair in pairs if split.get(pair["scene"]) == "test" and categories[pair["product"]] == category)
photo, box = next((photos / "images").rglob(f"{tested['scene']}.*")), tested["bbox"]
print(category)
for one in recommender.recommend(photo, category, k=5, box=box):
    print(f"{one.rank}  {one.product}  distance {one.distance:.3f}  probability {one.probability:.0%}")

# %% [markdown]
# The same for three categories as a picture: the scene, where each category looks, and its products. In a terminal it is
# `python -m ctl_lightning.recommend ckpt_path=runs/notebook catalogue=runs/catalogue scene=PHOTO 'box=[...]' 'category=[...]' output=look.png`.

# %%
look = recommender.look(photo, recommender.categories[:3], k=5, box=box)
write_look(Path("runs/look.png"), photo.name, look)
show(Path("runs/look.png"))

# %% [markdown]
# ## Export
#
# `export` writes one encoder for scenes and one for products, for torch (`.pt2`) and for any ONNX runtime, and compares what it has
# written with the network.

# %%
exported = Path("runs/exported")
ctl("export", f"ckpt_path={run}", f"output={exported}", "onnx=true", "hydra.run.dir=runs/export_log")

# %% [markdown]
# The files need nothing of this package: a photo is resized and cut to its centre, and the distance is 2 - q·f of the scene's vector q
# and the product's vector f. Left: what the package says of the whole photo, without a box; right: what the files say.

# %%
model = json.loads((exported / "serving.json").read_text())
size, edge = model["stored_size"], (model["stored_size"] - model["image_size"]) // 2


def pixels(path: Path) -> np.ndarray:
    """What an encoder is given of a photo, (1, 3, S, S)."""
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    square = upright.resize((size, size), Image.Resampling[model["interpolation"].upper()])
    return np.asarray(square).transpose(2, 0, 1)[None, :, edge : size - edge, edge : size - edge]


scene_encoder, product_encoder = (
    onnxruntime.InferenceSession(exported / name) for name in ("query.onnx", "product.onnx")
)
number = np.array([model["categories"].index(category)])
(query,) = scene_encoder.run(None, {"image": pixels(photo), "category": number})
for one in recommender.recommend(photo, category, k=5):
    (vector,) = product_encoder.run(None, {"image": pixels(one.image)})
    print(f"{one.rank}  {one.product}  {one.distance:.4f}  {2 - query[0] @ vector[0]:.4f}")

# %% [markdown]
# `examples/serve.py` is a server's core with the `.pt2` files; `python -m ctl_lightning.serve` and `python -m ctl_lightning.demo` are
# a service over HTTP and a page on which a colleague can try it.
