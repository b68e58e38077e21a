"""An encoder -> self-contained ONNX files, each with a verdict on its neighbours."""

from simclr.export.folder import ExportConfig, Exported, export_model

__all__ = ["ExportConfig", "Exported", "export_model"]
