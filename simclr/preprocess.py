"""The deterministic resize and crop that an encoder expects, as data that travels with it.

Takes an upright RGB image, gives (size, size, 3) uint8. No randomness, no normalisation: mean and standard
deviation are carried here, but the exported graph applies them, so that nobody can apply them twice.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr.errors import ArtifactError, ConfigError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shorter side resized with antialias, then the centre cropped: computed as one resize of the centre box."""

    size: int = 224
    """Side of the square given to the encoder, in pixels."""
    crop: float = 0.875
    """Side of the centre box, as a share of the image's shorter side (google-research/simclr: 0.875)."""
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, of values in 0..1; applied inside the exported graph."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    margin: float = 2.0
    """A JPEG may be decoded at 1/2, 1/4 or 1/8 while the box keeps this many times `size` pixels a side."""

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise ConfigError(
                f"interpolation {self.interpolation!r} is unknown. Use one of: {', '.join(_FILTERS)}."
            )
        if self.size < 1 or not 0 < self.crop <= 1:
            raise ConfigError(f"size {self.size} must be at least 1 and crop {self.crop:g} in (0, 1].")
        for name, values in (("mean", self.mean), ("std", self.std)):
            found = ",".join(f"{value:g}" for value in values)
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                above = ", each above 0" if name == "std" else ""
                raise ConfigError(f"{name} {found} must be three numbers{above}.")
            if max(values) > 1:  # no channel of values in 0..1 has such a mean or deviation
                scaled = ",".join(f"{value / 255:.4g}" for value in values)
                raise ConfigError(f"{name} {found} is of values in 0..255. Divide it by 255: {scaled}.")

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the centre box, in pixels of a width x height image."""
        side = self.crop * min(width, height)
        return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2

    def enough(self, width: int, height: int) -> int:
        """Shortest side, in pixels, that a scaled decode of a width x height JPEG must keep."""
        return min(width, height, int(np.ceil(self.margin * self.size / self.crop)))

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image of any size -> (size, size, 3) uint8."""
        resized = image.resize(
            (self.size, self.size), _FILTERS[self.interpolation], box=self.box(*image.size)
        )
        return np.asarray(resized)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Raises ArtifactError where a key or type is missing or foreign: preprocessing is never guessed."""
        if not isinstance(values, dict):
            raise ArtifactError("preprocessing recipe: no object. Export the model again.")
        if set(values) != (known := {field.name for field in fields(cls)}):
            odd = sorted(set(values) ^ known)
            raise ArtifactError(
                f"preprocessing recipe: missing or unknown {', '.join(odd)}. Export the model again."
            )
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        wrong = [name for name, value in arguments.items() if not _fits(name, value)]
        if wrong:
            raise ArtifactError(
                f"preprocessing recipe: {', '.join(wrong)} of a wrong type. Export the model again."
            )
        return cls(**arguments)


def _fits(name: str, value: object) -> bool:
    """Whether a value from JSON has the type of this field of a recipe, and numbers are finite."""
    if name == "interpolation":
        return isinstance(value, str)
    if name == "size":
        return type(value) is int and value < 1 << 31
    if isinstance(value, tuple) != (name in ("mean", "std")):
        return False
    numbers = value if isinstance(value, tuple) else (value,)
    return all(type(x) in (int, float) and abs(x) < 1e30 for x in numbers)
