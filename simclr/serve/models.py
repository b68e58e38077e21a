"""What goes over the wire: the types of requests and answers, as OpenAPI says them too. Does nothing.

Every answer of 400 and above is a `Problem`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_HITS = 1000
MOST_EXAMPLES = 16
"""Images that may be looked for as one, for and against together."""

Id = Annotated[int, Field(ge=0, le=(1 << 63) - 1, description="Of an image of the collection.")]


class Request(BaseModel):
    """Unknown fields are refused: a typing error would otherwise change what is found, in silence."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(Request):
    """Images to look for by their ids; uploads come as multipart/form-data with the same names."""

    id: Id | None = None
    """The same as one in `like`."""
    like: list[Id] = []
    unlike: list[Id] = []
    k: int = Field(default=10, ge=1, le=MOST_HITS)
    where: str | None = Field(default=None, description="A condition in SQL, as in: width > 800")
    exclude_self: bool = Field(default=False, description="Leave out the images that are asked for.")
    classes: bool = Field(default=False, description="Say the predicted class of each hit.")


class ClassifyRequest(Request):
    id: Id | None = None


class SessionRequest(Request):
    token: str = Field(max_length=4096)


class Predicted(BaseModel):
    """By the classifier that the server was given."""

    label: str
    probability: float
    """In 0..1."""
    unlike: float
    """Share of the images learned from that are closer to each other, in 0..1; from 0.99 on it is like none of them."""


class Image(BaseModel):
    """One of the collection."""

    id: int
    path: str
    """Where it lies on the server; it is fetched by its id."""
    width: int
    height: int
    """Pixels of the upright image."""
    predicted: Predicted | None = None


class Hit(Image):
    rank: int
    """From 1."""
    similarity: float
    """Cosine, in -1..1."""


class Found(BaseModel):
    hits: list[Hit]
    predicted: Predicted | None = None
    """Of the image that was asked for, where it was one and there is a classifier."""
    generation: int
    """Of the collection that was searched; it grows when the images change."""


class Images(BaseModel):
    images: list[Image]
    total: int
    """How many meet the condition."""


class Details(Image):
    """All that is known of an image."""

    size: int
    """Bytes."""
    modified: str | None
    """UTC, ISO 8601; None of remote images."""
    content_hash: str
    """BLAKE3."""
    classes: list["Share"] = []


class Share(BaseModel):
    label: str
    probability: float


class Classified(BaseModel):
    """Classes, the likeliest first, at most ten of them."""

    classes: list[Share]
    unlike: float
    """As in `Predicted`."""


class Collection(BaseModel):
    """What is served."""

    name: str
    images: int
    generation: int
    stale: bool
    """Whether images have changed since the index was built."""
    width: int
    """Numbers of a vector."""
    index: str
    """FAISS factory string."""
    recall: float | None
    """Measured recall@10 of the index."""
    encoder: str
    """Identity."""
    classes: list[str]
    """Of the classifier; empty without one."""
    columns: list[str]
    """That a condition may name."""
    upload_bytes: int
    upload_pixels: int
    version: str


class Pending(BaseModel):
    """Something that is being computed; ask again."""

    doing: str
    done: int
    total: int


class Map(BaseModel):
    """A sample of the collection in the plane; like images lie near each other."""

    ids: list[int]
    x: list[float]
    y: list[float]
    """In 0..1."""
    labels: list[int] | None
    """Predicted classes, as places in `classes`; None without a classifier."""
    classes: list[str]
    images: int
    """Of the whole collection."""
    method: Literal["t-SNE", "PCA"]


class Copy(Image):
    similarity: float
    kind: Literal["exact", "near"]


class Group(BaseModel):
    keeper: Image
    copies: list[Copy]


class Copies(BaseModel):
    groups: list[Group]
    total: int
    """Groups there are; the first are given."""
    images: int
    """Copies in all of them, without their keepers."""
    threshold: float
    """Likeness, in 0..1, from which on two images are taken for copies."""


class Health(BaseModel):
    status: Literal["ok"]
    images: int
    generation: int


class Problem(BaseModel):
    detail: str
    """One line: what was found, and what to do."""
