"""Recommends without this package: python examples/serve.py EXPORTED_DIR CATALOGUE_DIR photo.jpg CATEGORY. Needs torch, numpy, Pillow."""

import json
import sqlite3
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

exported, catalogue, photo, category = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
model, products = (json.loads(path.read_bytes()) for path in (exported / "serving.json", catalogue / "catalogue.json"))
if model["identity"] != products["identity"] or category not in products["slices"]:
    sys.exit(f"{catalogue} must be of the exported checkpoint, and CATEGORY one of {list(products['slices'])}")
size, aspect, how = model["stored_size"], model["aspect"], model.get("interpolation", "bilinear")  # older: unnamed
cut = slice((size - model["image_size"]) // 2, (size + model["image_size"]) // 2)
scene = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
by_torch = aspect == "stretch" and how in ("bilinear", "bicubic")  # as the package; the others are Pillow's
square = {"stretch": Image.Image.resize, "pad": partial(ImageOps.pad, color="white"), "crop": ImageOps.fit}
picture = scene if by_torch else square[aspect](scene, (size, size), Image.Resampling[how.upper()])
pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
image = (interpolate(pixels, (size, size), mode=how, antialias=True) if by_torch else pixels)[..., cut, cut]
encode = torch.export.load(exported / "query.pt2").module()
query = encode(image.contiguous(), torch.tensor([model["categories"].index(category)]))[0].detach().numpy()
start, end = products["slices"][category]
distances = 2 - np.load(catalogue / products["vectors"], mmap_mode="r")[start:end] @ query
names = sqlite3.connect(catalogue / products["products"])
for row in np.argsort(distances)[:5].tolist():
    name = names.execute("SELECT product FROM products WHERE row = ?", (start + row,)).fetchone()
    print(*name, f"{distances[row]:.4f}", sep="\t")
