"""What a service's answers look like, for its OpenAPI description; they are written as they are, without being checked again."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SHOES = "Apparel & Accessories|Shoes"
WHOLE = [0.0, 0.0, 1.0, 1.0]

BoxOut = tuple[float, float, float, float]


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="one line", examples=["box=[0.5, 0.1, 0.2, 0.4]: give [left, top, right, bottom]"])
    id: str | None = Field(None, description="of an error of the service itself: what its log says beside it")


class Product(BaseModel):
    """A product that completes the scene; beside `distance` one distance_PART for each part that it is the mean of."""

    model_config = ConfigDict(extra="allow")

    rank: int = Field(examples=[1])
    product: str = Field(examples=["shoe7"])
    image: str = Field(examples=["/v1/products/shoe7/image"])
    distance: float = Field(examples=[1.25])
    probability: float | None = Field(examples=[0.71])
    bonus: float = Field(examples=[0.0])


class Completed(BaseModel):
    """The products of one category, the best first, and what the attention looked at."""

    category: str = Field(examples=[SHOES])
    products: list[Product]
    attention: list[list[float]] | None = Field(description="weights of the regions, rows from top to bottom")
    attention_covers: BoxOut = Field(examples=[WHOLE])


class LookOut(BaseModel):
    """What completes a scene: the JSON that `recommend output=look.json` writes, with addresses of pictures."""

    scene: str = Field(examples=["room.jpg"])
    box: BoxOut | None
    scene_crop: BoxOut = Field(examples=[WHOLE])
    popularity: float
    categories: list[Completed]


class Candidate(BaseModel):
    """A product in its place; `was`: its place in the request, from 1."""

    candidate: str = Field(examples=["shoe7"])
    was: int = Field(examples=[3])
    distance: float = Field(examples=[1.25])
    probability: float | None = Field(examples=[0.71])
    compatible: bool | None = Field(examples=[True])


class Order(BaseModel):
    """Products in the order of their distance to a scene: the JSON that `rerank` writes."""

    scene: str = Field(examples=["room.jpg"])
    category: str = Field(examples=[SHOES])
    classifier: dict[str, Any] | None
    order: list[Candidate]


class Category(BaseModel):
    """A category and the number of its products."""

    category: str = Field(examples=[SHOES])
    products: int = Field(examples=[1200])


class Categories(BaseModel):
    """The categories that have products."""

    categories: list[Category]


class ProductCard(BaseModel):
    """A product of the catalogue."""

    product: str = Field(examples=["shoe7"])
    category: str = Field(examples=[SHOES])
    image: str = Field(examples=["/v1/products/shoe7/image"])


class Health(BaseModel):
    """That it is well."""

    status: str = Field(examples=["ok"])


BOX_FIELD = {
    "type": "string",
    "description": "what is to be replaced: left,top,right,bottom from 0 to 1, or as a JSON list",
    "examples": ["0.2,0.6,0.8,0.95"],
}
SCENE_FIELDS: dict[str, Any] = {
    "photo": {"type": "string", "format": "binary", "description": "the picture of the scene; this, or url"},
    "url": {"type": "string", "description": "its address, on a host that the service allows"},
    "box": BOX_FIELD,
}
LOOK_FIELDS: dict[str, Any] = {
    **SCENE_FIELDS,
    "categories": {
        "type": "array",
        "items": {"type": "string"},
        "description": "names of categories, whole or their last part; none: all that have products",
        "examples": [["Shoes"]],
    },
    "k": {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": 3,
        "description": "number of products of each category",
    },
}
ORDER_FIELDS: dict[str, Any] = {
    **SCENE_FIELDS,
    "category": {"type": "string", "description": "category of the products", "examples": ["Shoes"]},
    "products": {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": 1000,
        "description": "ids of products of the catalogue",
        "examples": [["shoe7", "shoe2"]],
    },
}


def form_of(fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """The description of a request that is a form with these fields."""
    schema = {"type": "object", "properties": fields, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


WHY = {
    400: "a form that cannot be read",
    401: "no API key, or another one",
    404: "there is no such thing",
    408: "the upload took too long",
    413: "too large",
    415: "no form, or no picture of a kind that is read",
    422: "a field that cannot be understood, or a broken picture",
    500: "an error of the service; its log has the id",
    503: "too many requests wait, or the catalogue is away; Retry-After says when to come again",
    504: "not answered in time",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The descriptions of errors."""
    return {status: {"model": Problem, "description": WHY[status]} for status in statuses}
