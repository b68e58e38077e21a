"""Does a provider of ONNX Runtime really start? `get_available_providers` lists what was built in, not what works.

A convolution over a drawn image is computed and compared, so that a missing cuDNN shows here and not in the middle of a run.
"""

import base64

import numpy as np

from simclr.errors import SimclrError, reason
from simclr.runtime.ort import open_ort

_GRAPH = base64.b64decode(
    "CAo6nwIKHAoGaW1hZ2VzEgFhIgRDYXN0KgkKAnRvGAGgAQIKJAoBYRIBYiIJVHJhbnNwb3NlKhEKBHBlcm1AAEADQAFAAqABBwoPCgFiCgF3EgFjIgRD"
    "b252CjEKAWMKBGF4ZXMSCWVtYmVkZGluZyIKUmVkdWNlTWVhbioPCghrZWVwZGltcxgAoAECEgVzdGFydConCAIIAwgBCAEQAUIBd0oYAACAPwAAAAAA"
    "AAAAAAAAAAAAAAAAAIA/KhwIAhAHQgRheGVzShACAAAAAAAAAAMAAAAAAAAAWiUKBmltYWdlcxIbChkIAhIVCgcSBWJhdGNoCgIIBAoCCAQKAggDYiAK"
    "CWVtYmVkZGluZxITChEIARINCgcSBWJhdGNoCgIIAkIECgAQEg=="
)
"""ONNX, opset 18: images (N, 4, 4, 3) uint8 -> Cast, Transpose, Conv that keeps red and blue, mean over the pixels (N, 2)."""


def why_not(backend: str) -> str:
    """Why `ort-cpu`, `ort-cuda` or `ort-trt` does not work on this machine; empty where it computes what it should."""
    images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    try:
        engine = open_ort(
            _GRAPH, name="a graph of one convolution", backend=backend, threads=1, size=4, max_batch=2
        )
        found = engine(images)
    except SimclrError as exc:
        return str(exc)
    except Exception as exc:  # ONNX Runtime's own classes derive from Exception and are not all public
        return f"fails at its first batch ({type(exc).__name__}: {reason(exc)})"
    expected = images.mean((1, 2))[:, [0, 2]]
    return (
        ""
        if np.allclose(found, expected, rtol=1e-3)
        else f"computes {found.tolist()}, not {expected.tolist()}"
    )
