"""One image -> two random views (Chen et al. 2020, appendix A).

Shape letters: B = images in the batch, V = 2B views (all first views, then all second), C, H, W.

`draw` makes every random number of a global batch from (seed, step) alone, so that the same step gives the same
views whatever the number of workers or processes, and after a resume. The rest is pure: `crop` works on one decoded
image, in a worker, `crop_batch` on many that lie on the training device; `recolour` works there on whole batches.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simclr.pretrain.config import Augmentation

_ATTEMPTS = 10
"""Random crops tried before the centre one (torchvision RandomResizedCrop)."""
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601 weights of R, G, B, as Pillow uses them; torchvision rounds the first to 0.2989."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of V views, as float32 arrays with one row a view."""

    crop: NDArray[np.float32]
    """(V, attempts, 4) in 0..1: area, aspect, left, top."""
    flip: NDArray[np.bool_]
    jitter: NDArray[np.bool_]
    factors: NDArray[np.float32]
    """(V, 4): brightness, contrast, saturation as factors; hue as a share of the circle."""
    order: NDArray[np.int64]
    """(V, 4): which of the four comes first, second, ..."""
    gray: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    """(V,) pixels."""

    def at(self, views: slice | NDArray[np.int64]) -> "Draws":
        """The numbers of some views."""
        return Draws(**{f.name: getattr(self, f.name)[views] for f in fields(self)})


def draw(seed: int, step: int, *, batch_size: int, augmentation: Augmentation) -> Draws:
    """All random numbers of one batch."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step, 0x51EC])))
    v, a = 2 * batch_size, augmentation
    swing = np.array([0.8, 0.8, 0.8, 0.2]) * a.strength
    factors = np.array([1, 1, 1, 0]) + swing * rng.uniform(-1, 1, (v, 4))
    return Draws(
        crop=rng.random((v, _ATTEMPTS, 4), dtype=np.float32),
        flip=rng.random(v) < a.flip,
        jitter=rng.random(v) < a.jitter,
        factors=factors.astype(np.float32),
        order=np.argsort(rng.random((v, 4)), axis=1),
        gray=rng.random(v) < a.grayscale,
        blur=rng.random(v) < a.blur,
        sigma=rng.uniform(*a.blur_sigma, v).astype(np.float32),
    )


def crop_boxes(
    sizes: NDArray[np.int64], u: NDArray[np.float32], *, crop_min: float, crop_ratio: float
) -> NDArray[np.int64]:
    """Left, top, right, bottom of random crops, (V, 4); `sizes` is (V, 2) widths and heights, `u` (V, attempts, 4) in 0..1.

    The first attempt that fits is taken, else the centre in the nearest allowed ratio (torchvision
    RandomResizedCrop; the reference's `min_object_covered` of the whole image has the same effect).
    """
    width, height = sizes.T[:, :, None].astype(np.float64)  # (V, 1), so that attempts broadcast
    area, aspect, left, top = np.moveaxis(u.astype(np.float64), -1, 0)
    target = width * height * (crop_min + area * (1 - crop_min))
    ratio = np.exp((2 * aspect - 1) * math.log(crop_ratio))
    w, h = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    x, y = np.floor(left * (width - w + 1)), np.floor(top * (height - h + 1))
    first = np.argmax(fits, axis=1)[:, None]
    found = [np.take_along_axis(part, first, axis=1) for part in (x, y, x + w, y + h)]

    ratio = np.clip(width / height, 1 / crop_ratio, crop_ratio)
    w, h = np.minimum(width, np.rint(height * ratio)), np.minimum(height, np.rint(width / ratio))
    w, h = np.maximum(w, 1), np.maximum(h, 1)
    x, y = (width - w) // 2, (height - h) // 2
    boxes = np.where(fits.any(1)[:, None], np.hstack(found), np.hstack([x, y, x + w, y + h]))
    return boxes.astype(np.int64)


def crop(image: Image.Image, box: tuple[float, float, float, float], size: int) -> NDArray[np.uint8]:
    """Crop and resize to (size, size, 3): bicubic, antialiased; at its edges the filter sees beyond the box."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def crop_batch(images_VHWC: Tensor, boxes_V4: Tensor, size: int) -> Tensor:
    """`crop` for uint8 images that lie on a device, each with its own box: (V, H, W, C) -> (V, size, size, C) uint8.

    Pillow's filter (a cubic with a = -0.5, widened where it shrinks) as two products with banded matrices, rounded after
    each as Pillow does: values differ from `crop` by at most 1, and seldom.
    """
    values = images_VHWC.permute(0, 3, 1, 2).to(boxes_V4.dtype)
    left, top, right, bottom = boxes_V4.unbind(1)
    columns = _resize_matrix(left, right, values.shape[-1], size)
    rows = _resize_matrix(top, bottom, values.shape[-2], size)
    wide = (values @ columns[:, None].transpose(-1, -2)).round_().clamp_(0, 255)
    made = (rows[:, None] @ wide).round_().clamp_(0, 255)
    return made.permute(0, 2, 3, 1).to(torch.uint8)


def _resize_matrix(start: Tensor, stop: Tensor, before: int, after: int) -> Tensor:
    """(V,) edges of boxes -> (V, after, before): row i holds the weights of the pixels that place i is made of."""
    scale = ((stop - start) / after)[:, None, None]
    width = scale.clamp(min=1)
    place = torch.arange(after, device=start.device, dtype=start.dtype)[:, None]
    pixel = torch.arange(before, device=start.device, dtype=start.dtype)
    centre = start[:, None, None] + (place + 0.5) * scale
    x = ((pixel + 0.5 - centre) / width).abs_()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    return weights / weights.sum(-1, keepdim=True)


def recolour(
    crops_VHWC: Tensor, draws: Draws, *, kernel_share: float = 0.1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 crops (V, H, W, C) -> views (V, C, H, W) in 0..1, as `dtype`: flip, jitter, grayscale, blur.

    Runs on the device of `crops_VHWC`; row i of `draws` belongs to row i.
    """
    device = crops_VHWC.device
    views = crops_VHWC.permute(0, 3, 1, 2).to(dtype).div_(255).contiguous()
    views = torch.where(_rows(draws.flip, device)[:, None, None, None], views.flip(-1), views)
    _jitter_(views, draws)
    gray = _rows(np.flatnonzero(draws.gray), device)
    views[gray] = _luminance(views[gray]).expand(-1, 3, -1, -1)
    if (blurred := _rows(np.flatnonzero(draws.blur), device)).numel():
        sigma = _rows(draws.sigma[draws.blur], device).to(dtype)
        radius = int(views.shape[-2] * kernel_share) // 2
        views[blurred] = gaussian_blur(views[blurred], sigma, radius=radius)
    return views.clamp_(0, 1)


def _jitter_(views: Tensor, draws: Draws) -> None:
    """Brightness, contrast, saturation and hue, each view in its own order, clipped after each."""
    operations = (brightness, contrast, saturation, shift_hue)
    for place in range(len(operations)):
        for index, operation in enumerate(operations):
            chosen = np.flatnonzero(draws.jitter & (draws.order[:, place] == index))
            if len(chosen):
                rows = _rows(chosen, views.device)
                factor = _rows(draws.factors[chosen, index], views.device).to(views.dtype)[
                    :, None, None, None
                ]
                views[rows] = operation(views[rows], factor)


def brightness(views: Tensor, factor: Tensor) -> Tensor:
    return (views * factor).clamp_(0, 1)


def contrast(views: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, the mean luminance of the whole view."""
    return torch.lerp(_luminance(views).mean((-2, -1), keepdim=True), views, factor).clamp_(0, 1)


def saturation(views: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luminance(views), views, factor).clamp_(0, 1)


def shift_hue(views: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the circle, through HSV."""
    high, low = views.amax(1, keepdim=True), views.amin(1, keepdim=True)
    chroma = high - low
    safe = torch.where(chroma > 0, chroma, 1)
    r, g, b = views.chunk(3, dim=1)
    sixth = torch.where(
        high == r, (g - b) / safe, torch.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    sixth = (sixth + 6 * turn) % 6
    # channel = high - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue/60) mod 6 (Smith 1978)
    k = torch.cat([(sixth + n) % 6 for n in (5.0, 3.0, 1.0)], dim=1)
    return high - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def gaussian_blur(views: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """A Gaussian of its own width for each view, mirrored at the border; radius in pixels.

    Both directions are products with a banded matrix, which for many different kernels beats a grouped
    convolution on CPU and GPU alike.
    """
    radius = min(radius, views.shape[-1] - 1, views.shape[-2] - 1)
    if radius < 1:
        return views
    rows = _blur_matrix(sigma, views.shape[-2], radius)[:, None]
    columns = _blur_matrix(sigma, views.shape[-1], radius)[:, None]
    return rows @ views @ columns.transpose(-1, -2)


def _blur_matrix(sigma: Tensor, size: int, radius: int) -> Tensor:
    """(V,) -> (V, size, size): row i holds the kernel around i, folded back at both ends."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    source = (torch.arange(size, device=sigma.device)[:, None] + offset).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrix = sigma.new_zeros(len(sigma), size, size)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1))


def _luminance(views: Tensor) -> Tensor:
    r, g, b = views.chunk(3, dim=1)
    return _LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b


def _rows(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copied without waiting for the device."""
    rows = torch.from_numpy(values)
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows
