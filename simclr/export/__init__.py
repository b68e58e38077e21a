"""An encoder -> a self-contained ONNX model that is proved to compute the same."""

from simclr.export.onnx import export_model

__all__ = ["export_model"]
