"""Whether a checkpoint is whole, without torch, which takes seconds to import."""

from __future__ import annotations

import hashlib
import json

from safetensors import SafetensorError
from safetensors.numpy import load


def checkpoint_digest(contents: str, metadata: dict[str, str]) -> str:
    """What a checkpoint says of itself: SHA-256 of the digest of its tensors and of its other metadata."""
    return hashlib.sha256(f"{contents} {json.dumps(metadata, sort_keys=True)}".encode()).hexdigest()


def is_whole_checkpoint(content: bytes, training_id: str) -> bool:
    """Whether a checkpoint of that training reads back as `bench.train.resume` wrote it."""
    try:
        arrays = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError):
        return False
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):  # as bench.models.checkpoint.digest_of does it for tensors
        digest.update(f"{name} torch.{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    written = metadata.pop("sha256", "")
    return metadata.get("training_id") == training_id and written == checkpoint_digest(digest.hexdigest(), metadata)
