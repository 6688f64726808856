"""Recommends without this package: python examples/serve.py EXPORTED_DIR CATALOGUE_DIR photo.jpg CATEGORY. Needs torch, numpy, Pillow."""

import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

exported, catalogue, photo, category = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
model, products = (json.loads(path.read_bytes()) for path in (exported / "serving.json", catalogue / "catalogue.json"))
if model["identity"] != products["identity"] or category not in products["slices"]:
    sys.exit(f"{catalogue} must be of the exported checkpoint, and CATEGORY one of {list(products['slices'])}")
size, side = model["stored_size"], model["image_size"]
cut = (size - side) // 2
scene = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
square = {"stretch": Image.Image.resize, "pad": ImageOps.pad, "crop": ImageOps.fit}[model["aspect"]]
more = {"stretch": {"reducing_gap": 2.0}, "pad": {"color": "white"}, "crop": {}}[model["aspect"]]
resampling = Image.Resampling[model.get("interpolation", "bilinear").upper()]  # older exports do not name it
pixels = np.array(square(scene, (size, size), resampling, **more))
image = torch.from_numpy(pixels[cut : cut + side, cut : cut + side]).permute(2, 0, 1)[None].contiguous()
encode = torch.export.load(exported / "query.pt2").module()
query = encode(image, torch.tensor([model["categories"].index(category)]))[0].detach().numpy()
start, end = products["slices"][category]
distances = 2 - np.load(catalogue / products["vectors"], mmap_mode="r")[start:end] @ query
names = sqlite3.connect(catalogue / products["products"])
for row in np.argsort(distances)[:5].tolist():
    (name,) = names.execute("SELECT product FROM products WHERE row = ?", (start + row,)).fetchone()
    print(f"{name}\t{distances[row]:.4f}")
