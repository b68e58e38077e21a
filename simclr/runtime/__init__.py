"""Open an exported model: uint8 images -> unit-length float32 vectors. No torch.

encoder = Encoder.open("runs/x/export")
vectors = encoder.encode(["a.jpg", "b.jpg"])        # (2, D)
"""

from simclr.runtime.encoder import Encoder, Encodes, open_picture
from simclr.runtime.model_files import newest_export

__all__ = ["Encoder", "Encodes", "newest_export", "open_picture"]
