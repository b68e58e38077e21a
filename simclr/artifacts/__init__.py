"""What lies on disk between the stages: one dataclass a file, with load, save and identity.

    EncoderInfo     encoder.json beside encoder.safetensors         pretrain -> export
    ModelInfo       manifest.json of an export folder               export -> embed, serve
    PlanInfo        trt/encoder.fp16.plan.json                      export -> embed, serve
    StoreInfo       manifest.json of a store                        embed -> index, classify
    IndexInfo       out.faiss.json beside out.faiss                 index -> search, serve
    TrainedInfo     trained.json in out.faiss.parts                 embed -> index
    PartInfo        part-1-of-8.json there                          embed -> index
    ClassifierInfo  classifier.json beside classifier.safetensors   classify -> serve

Each carries the identity of its parent. No torch, no faiss: these are small JSON files.
"""

from simclr.artifacts.atomic import (
    check_writable,
    file_sha256,
    fsync_folder,
    unwritable,
    write_atomically,
)
from simclr.artifacts.base import FORMAT, Artifact
from simclr.artifacts.classifier import ClassifierInfo
from simclr.artifacts.index import IndexInfo, IndexTrial, IndexWish, PartInfo, TrainedInfo
from simclr.artifacts.model import EncoderInfo, Fidelity, ModelFile, ModelInfo, PlanInfo
from simclr.artifacts.store import ShardInfo, SourceInfo, StoreInfo

__all__ = [
    "FORMAT",
    "Artifact",
    "ClassifierInfo",
    "EncoderInfo",
    "Fidelity",
    "IndexInfo",
    "IndexTrial",
    "IndexWish",
    "ModelFile",
    "ModelInfo",
    "PartInfo",
    "PlanInfo",
    "ShardInfo",
    "SourceInfo",
    "StoreInfo",
    "TrainedInfo",
    "check_writable",
    "file_sha256",
    "fsync_folder",
    "unwritable",
    "write_atomically",
]
