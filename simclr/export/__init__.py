"""An encoder -> self-contained files for any runtime, each with a verdict on its neighbours.

The names load on first use: judging TensorRT plans on a machine that only serves needs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr.export.folder import ExportConfig, Exported, export_model

__all__ = ["ExportConfig", "Exported", "export_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'simclr.export' has no attribute {name!r}")
    from simclr.export import folder

    return getattr(folder, name)
