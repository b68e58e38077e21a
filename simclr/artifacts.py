"""What lies on disk between the stages: one dataclass a file, with load, save and identity.

    EncoderInfo   encoder.json beside encoder.safetensors   pretrain -> export
    ModelInfo     manifest.json of an export folder         export -> embed, serve
    PlanInfo      trt/encoder.fp16.plan.json                export -> embed, serve
    StoreInfo     manifest.json of a store                  embed -> index, classify
    IndexInfo     out.faiss.json beside out.faiss           index -> search, serve

Each carries the identity of its parent. No torch, no faiss: these are small JSON files.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from simclr.errors import ArtifactError, ConfigError
from simclr.preprocess import Recipe

FORMAT = 1
"""Version of every file described here; raised when an old reader would misread a new file."""


class Artifact:
    """JSON in and out for the frozen dataclasses below; `KIND` says which file it is."""

    KIND = ""
    SEALED = False
    """Whether the file carries a checksum of its own: nobody edits it, and nothing else vouches for it."""

    def save(self, path: Path) -> None:
        assert is_dataclass(self) and not isinstance(self, type)
        values = asdict(self)
        head = {"simclr": self.KIND, "format": FORMAT} | ({"seal": _seal(values)} if self.SEALED else {})
        text = _text(head | values)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ArtifactError if the file is missing, damaged, or of another kind or version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            kind, version = values.pop("simclr"), values.pop("format")
            whole = not cls.SEALED or values.pop("seal", None) == _seal(values)
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such file.") from None
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as exc:
            raise ArtifactError(f"{path}: damaged, or not written by simclr ({_line(exc)}).") from exc
        if kind != cls.KIND:
            raise ArtifactError(f"{path}: describes a {_line(kind)}, but a {cls.KIND} is needed here.")
        if version != FORMAT:
            raise ArtifactError(
                f"{path}: format {_line(version)}, but this simclr reads {FORMAT}. Write it again."
            )
        if not whole:
            raise ArtifactError(f"{path}: damaged or edited, its seal is broken.")
        try:
            built: Self = _build(cls, values)
            return built
        except (
            ArtifactError,
            ConfigError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as exc:  # two are the recipe's
            raise ArtifactError(f"{path}: damaged ({_line(exc).rstrip('.')}). Write it again.") from exc


@dataclass(frozen=True, kw_only=True)
class EncoderInfo(Artifact):
    """An encoder's weights and how to feed them."""

    KIND = "encoder"

    name: str
    """timm model name."""
    small_stem: bool
    """First convolution 3x3 with stride 1 and no max-pool, for small images."""
    width: int
    """Length of an embedding."""
    weights_sha256: str
    """Of the tensors, see `encoder.weights_sha256`; independent of the file they lie in."""
    recipe: Recipe
    parents: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: run, step, data; or the file or timm name they were taken from."""

    @property
    def identity(self) -> str:
        """SHA-256 of what decides a vector: architecture, weights, preprocessing."""
        parts = [self.name, self.small_stem, self.weights_sha256, self.recipe.to_dict()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close the vectors of one precision come to those of fp32; fp32's own, to those of PyTorch."""

    images: int
    """Compared: the user's own, or the probe where there are none."""
    cosine_min: float
    cosine_low: float
    """That 1 % of the images stay below."""
    cosine_mean: float
    max_difference: float
    """Largest of any number of a vector."""
    recall_1: float | None
    """Share of the nearest neighbours that are kept, in 0..1; None where there were too few images to say."""
    recall_10: float | None
    """Of the ten nearest."""
    top_1: float | None
    """Share of images whose nearest neighbour is the very same."""
    batches: tuple[int, ...]
    """Sizes that were run."""
    batch_cosine: float | None
    """Smallest cosine between vectors of one image in batches of these sizes; None where nothing here can run the file."""
    measured_on: str
    """What computed the vectors: a provider as read back, or PyTorch rounding after every operation."""
    passed: bool
    failed: str
    """The threshold that was missed, in words; empty where all were met."""

    @property
    def words(self) -> str:
        """One line for a person."""
        recall = "recall not measured" if self.recall_10 is None else f"recall@10 {self.recall_10:.3f}"
        return self.failed or f"smallest cosine {self.cosine_min:.6f}, {recall}"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One exported graph."""

    sha256: str
    size: int
    """Bytes."""
    precision: str
    opset: int
    probe_cosine: float
    """Smallest cosine of the probe's images to their fp32 vectors, at export. A load may be twice as far from 1."""
    fidelity: Fidelity
    accepted: bool
    """Whether a person took it in spite of its verdict."""

    @property
    def usable(self) -> bool:
        return self.fidelity.passed or self.accepted


@dataclass(frozen=True, kw_only=True)
class ModelInfo(Artifact):
    """An export folder: graphs that take (N, size, size, 3) uint8 RGB and give (N, width) unit-length float32."""

    KIND = "model"

    encoder: EncoderInfo
    files: dict[str, ModelFile]
    """File name -> what it is; one for each precision."""
    probe_size: int
    """Bytes."""
    probe_sha256: str
    max_batch: int
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PlanInfo(Artifact):
    """A TensorRT plan, and all that a plan is bound to."""

    KIND = "plan"

    sha256: str
    """Of the plan."""
    size: int
    """Bytes."""
    precision: str
    onnx_sha256: str
    """Of the file it was built from."""
    profiles: tuple[tuple[int, ...], ...]
    """Smallest, best and largest batch of each optimisation profile."""
    tensorrt: str
    cuda: str
    """Runtime version."""
    driver: str
    gpu: str
    compute_capability: str
    fidelity: Fidelity | None
    """Its verdict, where one was given: a plan that is built anew at a load has images for a probe only."""
    accepted: bool

    @property
    def usable(self) -> bool:
        return self.accepted or self.fidelity is None or self.fidelity.passed


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """Where embedded images come from; see `sources.inventory`."""

    kind: str
    """folder, list, tar, zip or parquet."""
    root: str
    """What the paths of its rows are relative to: an absolute folder or a URL; of a list, the list."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    number: int
    """Never given to another shard of this store."""
    rows: int
    vectors_sha256: str
    metadata_sha256: str


@dataclass(frozen=True, kw_only=True)
class StoreInfo(Artifact):
    """A store: which shards it consists of. A shard not listed here does not exist."""

    KIND = "store"
    SEALED = True

    uid: str
    """Drawn when the store is created: one made anew at the same path is another store, with other ids."""
    generation: int
    """Raised by every change, so that an index knows whether it is behind."""
    identity: str
    width: int
    sources: tuple[SourceInfo, ...]
    """A row's `source` counts into this list, which only grows."""
    next_id: int
    next_shard: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, kw_only=True)
class IndexWish:
    """What an index is asked to be."""

    index_type: str = "auto"
    """`auto`, or a FAISS factory string."""
    memory: int | None = None
    """Bytes that it may take while it is searched; None is half of what is free when it is built."""
    recall: float = 0.95
    """recall@10, in 0..1."""
    latency: float = 10.0
    """Milliseconds of one query alone, the encoder's time not among them."""

    def __post_init__(self) -> None:
        if not self.index_type.strip():
            raise ConfigError("index type: empty. Use auto, or a factory string such as IVF1024,SQ8.")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError(f"memory ({self.memory}) must be more than 0 bytes.")
        if not 0 < self.recall <= 1:
            raise ConfigError(f"recall ({self.recall:g}) must be more than 0 and at most 1.")
        if not 0 < self.latency < float("inf"):
            raise ConfigError(f"latency ({self.latency:g}) must be more than 0 milliseconds.")


@dataclass(frozen=True, kw_only=True)
class IndexTrial:
    """One index type that was considered: what it would be with all vectors, as a sample tells."""

    factory: str
    memory: int
    """Bytes."""
    recall: float | None
    """recall@10; None where it was not tried."""
    queries_per_second: float | None
    latency: float | None
    """Milliseconds."""
    build_seconds: float | None
    verdict: str
    """Chosen, or why not."""


@dataclass(frozen=True, kw_only=True)
class IndexInfo(Artifact):
    """An index and the store it was built from."""

    KIND = "index"
    SEALED = True

    sha256: str
    generation: int
    """Of the store when the index was last brought in step."""
    store: str
    """Path of the store, relative to the folder of the index."""
    store_uid: str
    identity: str
    width: int
    size: int
    """Vectors in it."""
    buried: int
    """Entries beside these that are dead and wait for the next building."""
    built_with: int
    """Vectors that it had when it was last built as a whole."""
    factory: str
    """FAISS factory string."""
    search_parameters: dict[str, float]
    """nprobe or efSearch, and rerank: how many of the index's best are ranked again by the store's vectors, to find ten."""
    wish: IndexWish
    reason: str
    """Why this type, in words."""
    trials: tuple[IndexTrial, ...]
    """All types that were considered."""
    measured: dict[str, Any]
    """recall@10, latency, queries a second, memory, and how they were measured."""
    entries_sha256: str
    """Of the file that says which version of which vector it holds."""

    def __post_init__(self) -> None:
        counts = (self.generation, self.width - 1, self.size, self.buried, self.built_with)
        if not all(0 <= count < 1 << 62 for count in counts):
            raise ValueError("a count is negative, or beyond all reason")
        if not all(1 <= value < 1 << 31 for value in self.search_parameters.values()):
            raise ValueError(f"search parameters {self.search_parameters} are not numbers of 1 and more")
        for name in _FIGURES:
            value = self.measured.get(name)
            if not isinstance(value, int | float) or not 0 <= value < 1 << 62:
                raise ValueError(f"measured: {name} is not a number of 0 or more")


_FIGURES = ("recall@10", "queries_per_second", "latency_ms", "latency_p99_ms", "bytes", "changed_since")
"""That are measured of every index."""


def _text(values: dict[str, Any]) -> str:
    """As JSON, for people to read; all in ASCII where a path is not Unicode."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(values, indent=2) + "\n"
    return text


def _seal(values: dict[str, Any]) -> str:
    """SHA-256 of the values, however the JSON around them is laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Raises ArtifactError if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror or exc}).") from exc


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file beside `path`, which then takes its name: whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut; a no-op where folders cannot be opened (Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _line(found: object) -> str:
    """What a file or an exception says, on one line of a length to read; a damaged file says anything."""
    try:
        text = " ".join(str(found).split())
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists a thousand deep
        return f"a {type(found).__name__}"
    return text if len(text) <= 300 else text[:299] + "…"


def _build(cls: Any, value: Any) -> Any:
    """JSON values -> the annotated type: dataclasses, tuples and dicts of them, or plain values."""
    if cls is Recipe:
        return Recipe.from_dict(value)
    if is_dataclass(cls):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no object")
        hints = get_type_hints(cls)
        known = {f.name for f in fields(cls)}
        if set(value) != known:
            raise ValueError(f"missing or unknown: {', '.join(sorted(set(value) ^ known))}")
        return cls(**{name: _build(hints[name], value[name]) for name in known})  # type: ignore[operator]
    origin = get_origin(cls)
    if origin is UnionType:  # `X | None`
        return None if value is None else _build(get_args(cls)[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(get_args(cls)[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _build(get_args(cls)[1], item) for key, item in value.items()}
    if origin in (tuple, dict):
        raise TypeError(f"{value!r} is no {'list' if origin is tuple else 'object'}")
    if cls in (str, int, float, bool):
        accepted = (int, float) if cls is float else cls
        if not isinstance(value, accepted) or (cls is int and isinstance(value, bool)):
            raise TypeError(f"{value!r} is no {cls.__name__}")
        return float(value) if cls is float else value
    return value
