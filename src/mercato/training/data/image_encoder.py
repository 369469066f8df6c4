"""Where images get their vectors or patches: a compact CNN trained on the catalogue's labels, or a transformers model.

The paper takes image vectors from GrokNet, one trunk trained to predict many things of a product image; the compact
CNN plays that part with what the catalogue has: the category and every attribute that sellers fill in, of the products
that may be learned from (`mercato.training.data.learnable`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from mercato.config import Images
from mercato.data.images import load_images
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.features.images import ImageSpec, middle_square, read_spec, write_spec
from mercato.files import atomic_directory, write_atomic
from mercato.models.compact_cnn import CompactCNN
from mercato.models.patches import CompactMap, FeatureMap, Squares
from mercato.models.vision import Pooled, Vision
from mercato.progress import note, track
from mercato.runs.export import onnx_bytes
from mercato.runs.image_encoder import MODEL
from mercato.runs.image_vectors import CACHE
from mercato.training.data.images import MARGIN

WEIGHTS = "image_encoder.safetensors"  # of the compact CNN, in torch: where its fine-tuning starts
IMAGES = 20_000  # at most; more teaches a CNN this small little
BATCH, RATE = 128, 3e-3
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def market_image_encoder(
    market: Market, images: Images, seed: int, learnable: pl.Series, patches: bool = False
) -> Path | None:
    """The folder of the image encoder that a recipe names (`mercato.runs.image_encoder`), made once a market.

    A compact CNN learns from the products whose ids are `learnable`; recipes that may learn from the same share it,
    whether they read its vectors or, with `patches`, a feature map of its in patches (`images.patches`).
    None, with a note, where the catalogue has no image that can be read, or nothing for a compact CNN to learn from.
    """
    products = market.arrow("products", ["product_id", "category", "attributes", "images"])
    if not any(load_images(market.path, own.as_py(), 1) for own in products["images"]):
        note("  [yellow]the catalogue has no images[/]")
        return None
    if patches and images.patches == "pixels":
        key = f"pixels {images.size} {images.patch_size}".encode()
        return _made_once(market, key, lambda fresh: _write_pixels(images, fresh))
    learned = pc.is_in(products["product_id"], pa.array(learnable.to_list(), pa.string()))
    products = products.filter(learned)
    if images.encoder == "compact" and not _labels(products)[1]:
        note(
            "  [yellow]no category or attribute to learn images from: name a transformers vision model as"
            " images.encoder to use them[/]"
        )
        return None
    key = images.encoder.encode()
    if images.encoder != "compact":
        key += b" patches" if patches else b""
        return _made_once(market, key, lambda fresh: _export_pretrained(images.encoder, patches, fresh))
    key += f"{images.epochs} {images.size} {seed} {WEIGHTS}".encode() + learned.to_numpy().tobytes()
    for file in market.files("products"):  # a compact CNN depends on the catalogue; a pretrained model does not
        with file.open("rb") as content:
            key += hashlib.file_digest(content, "sha256").digest()
    whole = _made_once(market, key, lambda fresh: _train_compact(market, products, images, seed, fresh))
    if not patches:
        return whole
    return _made_once(market, key + b" patches", lambda fresh: _write_compact_map(whole, fresh))


def starting_vision(images: Images, folder: Path) -> Vision:
    """What fine-tuning starts from: the backbone that `market_image_encoder` left in `folder`, its label heads gone."""
    trunk = _compact(folder) if images.encoder == "compact" else Pooled(_pretrained(images.encoder))
    return Vision(trunk, read_spec(folder))


def write_image_encoder(trunk: nn.Module, spec: ImageSpec, folder: Path) -> None:
    """A trunk, normalised pixels (n, 3, S, S) → (n, V) or (n, P, V), as the two files that `ImageEncoder` reads."""
    pixels = torch.zeros(2, 3, spec.size, spec.size)
    content = onnx_bytes(trunk, {"pixels": pixels}, ({0: torch.export.Dim.DYNAMIC},))
    write_atomic(folder / MODEL, content)
    write_spec(folder, spec)


def labels_of(products: list[dict[str, Any]]) -> tuple[dict[str, NDArray[np.int64]], dict[str, int]]:
    """What an image can be asked to predict: per label a class a product (−1 unknown), and the number of classes.

    The category path and its first level, and each attribute with 2 to 64 values known for 5 % of the products; of
    every label only values that ten products share.
    """
    raw: dict[str, list[str | None]] = {
        "category": [p["category"] for p in products],
        "department": [p["category"].split(" > ")[0] if p["category"] else None for p in products],
    }
    attributes = [{k: v for k, v in (p["attributes"] or ()) if v} for p in products]
    for key, count in Counter(key for row in attributes for key in row).items():
        if count >= 0.05 * len(products):
            raw[f"attribute {key}"] = [row.get(key) for row in attributes]
    targets, classes = {}, {}
    for name, values in raw.items():
        common = sorted(
            v for v, n in Counter(v.casefold() for v in values if v).items() if n >= min(10, len(products) // 20)
        )
        if 2 <= len(common) <= (64 if name.startswith("attribute") else 4096):
            ids = {value: i for i, value in enumerate(common)}
            targets[name] = np.array([ids.get(v.casefold(), -1) if v else -1 for v in values])
            classes[name] = len(common)
    return targets, classes


def _made_once(market: Market, key: bytes, make: Callable[[Path], None]) -> Path:
    """The folder in the market's cache of the encoder that `make` writes; `key` tells all that it depends on."""
    folder = market.path / CACHE / f"image-encoder-{hashlib.sha256(key).hexdigest()[:16]}"
    if not folder.is_dir():
        with atomic_directory(folder) as fresh:
            make(fresh)
    return folder


def _train_compact(market: Market, products: pa.Table, images: Images, seed: int, folder: Path) -> None:
    targets, classes = _labels(products)
    labelled = np.flatnonzero(np.any([values >= 0 for values in targets.values()], axis=0))
    side = round(images.size * MARGIN)
    pixels, owners = _decode(market, products["images"], labelled, side, images.max_images, seed)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = CompactCNN()
    heads = nn.ModuleDict({_key(name): nn.Linear(model.dimension, count) for name, count in classes.items()})
    labels = {_key(name): torch.from_numpy(values[owners]) for name, values in targets.items()}
    steps = max(1, images.epochs * -(-len(pixels) // BATCH))
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    order = (rows for _ in range(images.epochs) for rows in _shuffled(len(pixels), generator))
    right = seen = 0
    for step, rows in enumerate(track(order, "compact CNN: steps on the catalogue's labels", steps)):
        batch = _augment(torch.from_numpy(pixels[rows]), images.size, generator)
        vectors = F.relu(model(batch))
        logits = {name: head(vectors) for name, head in heads.items()}
        losses = []
        for name, logit in logits.items():
            truth = labels[name][rows]
            if (known := truth >= 0).any():
                losses.append(F.cross_entropy(logit[known], truth[known]))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if "category" in logits and step >= steps - -(-len(pixels) // BATCH):
            known = labels["category"][rows] >= 0
            right += int((logits["category"].argmax(1) == labels["category"][rows])[known].sum())
            seen += int(known.sum())
    if seen:
        note(
            f"  compact CNN: names the category of {right / seen:.0%} of its images ({classes['category']} categories)"
        )
    write_image_encoder(model.eval(), ImageSpec(model.dimension, images.size, side, *IMAGENET), folder)
    save_model(model, str(folder / WEIGHTS))
    (folder / WEIGHTS).chmod(0o644)  # safetensors lets only its writer read it


def _labels(products: pa.Table) -> tuple[dict[str, NDArray[np.int64]], dict[str, int]]:
    """`labels_of` some products, one without images having none."""
    rows = products.select(["category", "attributes"]).to_pylist()
    lengths = pc.fill_null(pc.list_value_length(products["images"]), 0).to_pylist()
    nothing = {"category": None, "attributes": None}
    return labels_of([own if length else nothing for own, length in zip(rows, lengths, strict=True)])


def _decode(
    market: Market, stored: pa.ChunkedArray, products: NDArray[np.int64], side: int, limit: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows = np.random.default_rng(seed).permutation(products)
    pixels, owners = [], []
    per_product = max(1, min(limit, IMAGES // max(1, len(rows)), 2))
    for row in track(rows[: IMAGES // per_product], "images read for the CNN"):
        for image in load_images(market.path, stored[int(row)].as_py(), per_product):
            pixels.append(np.asarray(middle_square(image, side)))
            owners.append(row)
    empty = np.zeros((0, side, side, 3), np.uint8)
    return np.stack(pixels) if pixels else empty, np.array(owners, np.int64)


def _shuffled(count: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    return np.array_split(generator.permutation(count), max(1, -(-count // BATCH))) if count else []


def _augment(pixels: Tensor, size: int, generator: np.random.Generator) -> Tensor:
    """A random crop a batch and a mirror an image; colours stay: they are what shoppers ask for."""
    room = pixels.shape[1] - size
    top, left = generator.integers(0, room + 1, 2)
    crop = pixels[:, top : top + size, left : left + size].permute(0, 3, 1, 2).float() / 255
    mirrored = torch.from_numpy(generator.random(len(crop)) < 0.5)
    crop[mirrored] = crop[mirrored].flip(3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    return ((crop - mean) / std).contiguous(memory_format=torch.channels_last)


def _export_pretrained(name: str, patches: bool, folder: Path) -> None:
    """A transformers vision model by hub name or folder: its pooled state, on the preprocessing it was trained with.

    With `patches` its last state, place by place.
    """
    from transformers.utils.hub import cached_file

    model = FeatureMap(_pretrained(name)) if patches else Pooled(_pretrained(name))
    try:
        file = cached_file(name, "preprocessor_config.json")
    except (OSError, ValueError) as error:
        raise MercatoError(f"images.encoder: cannot load {name}: {error}") from None
    assert file is not None
    settings: Mapping[str, Any] = json.loads(Path(file).read_text())
    sides = settings.get("crop_size") or settings.get("size") or {}
    size = sides if isinstance(sides, int) else int(sides.get("height") or sides.get("shortest_edge") or 224)
    resize = round(size / settings["crop_pct"]) if settings.get("crop_pct") else size
    mean, std = (
        tuple(settings.get(k) or default) for k, default in zip(("image_mean", "image_std"), IMAGENET, strict=True)
    )
    _write_measured(model, ImageSpec(0, size, resize, mean, std), folder)


def _pretrained(name: str) -> nn.Module:
    from transformers import AutoModel

    try:
        model: nn.Module = AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MercatoError(f"images.encoder: cannot load {name}: {error}") from None
    return model.eval()


def _write_pixels(images: Images, folder: Path) -> None:
    """Patches of pixels: nothing of the image's middle square is cut off."""
    _write_measured(Squares(images.patch_size), ImageSpec(0, images.size, images.size, *IMAGENET), folder)


def _write_compact_map(compact: Path, folder: Path) -> None:
    """The compact CNN that was left in another folder, place by place."""
    _write_measured(CompactMap(_compact(compact)), read_spec(compact), folder)


def _write_measured(trunk: nn.Module, spec: ImageSpec, folder: Path) -> None:
    """`write_image_encoder`, with what the trunk makes of an image in place of the spec's dimension and patches."""
    with torch.inference_mode():
        made = trunk.eval()(torch.zeros(1, 3, spec.size, spec.size))
    patches = made.shape[1] if made.ndim == 3 else 0
    write_image_encoder(trunk, replace(spec, dimension=made.shape[-1], patches=patches), folder)


def _compact(folder: Path) -> CompactCNN:
    trunk = CompactCNN()
    load_model(trunk, folder / WEIGHTS)
    return trunk


def _key(name: str) -> str:
    """A label's name as a module's: dots are not allowed there."""
    return name.replace(".", "·")
