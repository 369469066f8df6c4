"""Serialisation: domain values as the JSON of `mercato.serving.bodies`, and bodies as the catalogue stores them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import HTTPException, Response

from mercato.catalogue.images import checked_image
from mercato.catalogue.products import ProductDocument, StoredImage, StoredProduct
from mercato.search.cut import PageHit
from mercato.search.market_info import MarketInfo
from mercato.search.pipeline import Page
from mercato.serving import bodies


def json_response(content: Any) -> Response:
    """A 200 with `content` as JSON; NumPy arrays are lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def page_json(page: Page) -> dict[str, Any]:
    """A page as `SearchOut`."""
    return {
        "query_id": page.query_id,
        "hits": list(map(_hit_json, page.hits)),
        "cursor": page.cursor,
        "truncated": page.truncated,
        "total": page.total,
        "ranked_by": page.ranked_by,
        "took_ms": page.took_ms,
    }


def _hit_json(hit: PageHit) -> dict[str, Any]:
    return {
        "position": hit.position,
        "product": product_json(hit.product),
        "cosine": hit.hit.cosine,
        "bm25": hit.hit.bm25,
        "found_by": hit.hit.found_by,
        "exact": hit.hit.exact,
        "distance_km": hit.distance_km,
        "rank_score": hit.rank_score,
        "places": hit.places,
        "placed_by": hit.placed_by,
    }


def product_json(product: ProductDocument) -> dict[str, Any]:
    """A catalogue document as `ProductOut`: its images as addresses on this server."""
    product_id = quote(product["product_id"], safe="")
    fields = {name: value for name, value in product.items() if name != "image_count"}
    return fields | {"images": [f"/v1/images/{position}/{product_id}" for position in range(product["image_count"])]}


def market_json(info: MarketInfo) -> dict[str, Any]:
    """Market info as the fields of `MarketOut` that it knows."""
    return asdict(info)


def stored_products(products: list[bodies.ProductIn], image_dimension: int) -> list[StoredProduct]:
    """Products as the catalogue stores them, each image decoded once to know that it is one.

    Args:
        products: as they came.
        image_dimension: the length of the image vectors that the encoder reads; 0 where it reads none.

    Raises:
        HTTPException: 422 where a product's image vectors are of another length.
        MercatoError: an image is broken or too large; the message names it.
    """
    for number, product in enumerate(products):
        for vector in product.image_embeddings or ():
            if image_dimension and len(vector) != image_dimension:
                why = f"vectors of {len(vector)} numbers, but the model's image vectors have {image_dimension}"
                raise HTTPException(422, f"products.{number}.image_embeddings: {why}")
    return [_stored_product(product, f"products.{number}") for number, product in enumerate(products)]


def _stored_product(product: bodies.ProductIn, where: str) -> StoredProduct:
    images = [
        StoredImage(*checked_image(image.base64, f"{where}.images.{number}.base64"))
        for number, image in enumerate(product.images or ())
    ]
    document = product.model_dump(mode="json", exclude={"images", "image_embeddings"})
    return StoredProduct(document, images, product.image_embeddings)
