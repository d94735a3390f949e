"""ONNX files as classifiers: converted to torch by onnx2torch, and then as any other network; or,
where it does not know an operation, run by onnxruntime, in fp32 and without gradients."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.machine.reasons import reason_of
from bench.models.external import alike
from bench.models.packages import Published
from bench.models.preprocessing import Expected
from bench.models.shelf import ShelfName, SourceError

ENGINES = ("onnx2torch", "onnxruntime")
SAME = 1e-3
"""Share of the largest logit by which what onnx2torch made may differ from onnxruntime."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""fp32 is fp32, and algorithms are not chosen by a timing."""

logger = logging.getLogger("bench")


def from_onnx(name: ShelfName) -> tuple[Published, str]:
    """The classifier of a file, and the SHA-256 of the file with its external data.

    The file has one input, images (batch, channel, height, width) in float32, of a fixed batch or of any, and gives
    logits first. It is taken to normalise itself, unless `normalise` says what is to be done before.

    Raises:
        SourceError: it is not such a file, or neither onnx2torch nor onnxruntime can run it.
    """
    import onnx

    path = Path(name.name)
    try:
        model = onnx.load(str(path), load_external_data=False)
        weights = _digest(path, model)
        graph = onnx.load(str(path))
    except Exception as error:  # a file may be anything
        raise SourceError(f"{name}: not readable as ONNX: {reason_of(error)}") from None
    constants = {tensor.name for tensor in graph.graph.initializer}
    inputs = [tensor for tensor in graph.graph.input if tensor.name not in constants]
    if len(inputs) != 1:
        raise SourceError(f"{name}: must have one input, images; has {', '.join(each.name for each in inputs)}")
    shape = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise SourceError(f"{name}: {inputs[0].name} must be float32 (batch, channel, height, width)")
    network = _FixedBatch(_running(name, graph, shape), shape[0])
    size = None if shape[2] is None or shape[3] is None else (shape[2], shape[3])
    output = [dim.dim_value or None for dim in graph.graph.output[0].type.tensor_type.shape.dim]
    classes = output[1] if len(output) == 2 else None
    return Published(network, Expected(None, size, channels=shape[1]), num_classes=classes), weights


def _digest(path: Path, model: Any) -> str:
    """Of the file, and of the files beside it that have its tensors."""
    digest = hashlib.sha256(path.read_bytes())
    beside = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for file in sorted(beside):
        if Path(file).name != file:
            raise SourceError(f"{path}: has tensors in {file}, which is not beside it")
        digest.update((path.parent / file).read_bytes())
    return digest.hexdigest()


def _running(name: ShelfName, graph: Any, shape: list[int | None]) -> nn.Module:
    """The file as a module; a log line says by which engine."""
    asked = name.options.get("engine")
    if asked not in (None, *ENGINES):
        raise SourceError(f"{name}: engine = {asked}: must be {' or '.join(ENGINES)}")
    for engine in ENGINES:
        if asked == engine and find_spec(engine) is None:
            raise SourceError(f"{name}: needs the package {engine}: pip install {engine}")
    reference = OnnxRuntime(Path(name.name)) if asked != ENGINES[0] and find_spec(ENGINES[1]) else None
    example = torch.rand([size or default for size, default in zip(shape, (2, 3, 224, 224), strict=True)])
    reason = f"{ENGINES[0]} is not installed"
    if asked != ENGINES[1] and find_spec(ENGINES[0]):
        try:
            converted = _converted(graph)
            _refuse_other_logits(converted, reference, example)
        except Exception as error:  # whatever it fails on, onnxruntime may know
            reason = f"{ENGINES[0]} fails: {reason_of(error)}"
            if asked:
                raise SourceError(f"{name}: {reason}") from error
        else:
            logger.info("%s: computed by torch, converted by %s", name, ENGINES[0])
            return converted
    if reference is None:
        raise SourceError(f"{name}: {reason}; install onnxruntime: pip install onnxruntime")
    said = "" if asked else f", since {reason}"
    logger.info("%s: computed by onnxruntime, in fp32 and without gradients%s", name, said)
    return reference


def _converted(graph: Any) -> nn.Module:
    import onnx2torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arrays that cannot be written to, which nobody does
        module: nn.Module = onnx2torch.convert(graph)
    return module.eval()


def _refuse_other_logits(converted: nn.Module, reference: nn.Module | None, example: Tensor) -> None:
    """Raise ValueError where the conversion computes something else than onnxruntime."""
    with torch.no_grad():
        found = converted(example)
        if reference is None:
            return
        expected = reference(example)
    if not alike(found, expected, SAME).all():
        raise ValueError("what it converts gives other logits than onnxruntime")


class _FixedBatch(nn.Module):
    """A network that takes one number of images, asked in so many; the last ones are filled up."""

    def __init__(self, network: nn.Module, batch: int | None) -> None:
        """batch: None: it takes any."""
        super().__init__()
        self.network = network
        self.fixed_batch = batch

    def forward(self, images: Tensor) -> Any:
        """What the network gives."""
        if self.fixed_batch is None:
            return self.network(images)
        parts = []
        for part in images.split(self.fixed_batch):
            filled = torch.cat([part, part[-1:].expand(self.fixed_batch - len(part), *part.shape[1:])])
            parts.append(self.network(filled)[: len(part)])
        return torch.cat(parts)


class OnnxRuntime(nn.Module):
    """An ONNX file run by onnxruntime: on a GPU by its CUDA provider, where this build has one, else on the CPU.

    It has no gradients, is not compiled, and computes in fp32 whatever the precision around it.
    """

    only_fp32 = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._run: tuple[torch.device, Callable[[Tensor], Tensor]] | None = None
        self._compute = torch.compiler.disable(self._compute_outside)

    def __deepcopy__(self, _: object) -> OnnxRuntime:
        """Another with the same file: a session cannot be copied."""
        return OnnxRuntime(self.path)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, on the images' device."""
        logits: Tensor = self._compute(images)
        return logits

    def _compute_outside(self, images: Tensor) -> Tensor:
        if self._run is None or self._run[0] != images.device:
            self._run = images.device, self._opened(images.device)
        return self._run[1](images)

    def _opened(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        import onnxruntime

        wanted: list[tuple[str, dict[str, Any]]] = [(CPU, {})]
        if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
            wanted.insert(0, (CUDA, CUDA_OPTIONS | {"device_id": device.index or 0}))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        options.use_deterministic_compute = True
        open_with = partial(onnxruntime.InferenceSession, str(self.path), options, enable_fallback=0)
        try:
            session = open_with(providers=wanted)
        except Exception:  # a library of CUDA that is not there, or another one
            if len(wanted) == 1:
                raise
            session = open_with(providers=wanted[1:])
        if device.type == "cuda" and CUDA not in session.get_providers():
            logger.warning("%s: computed on the CPU: this onnxruntime has no %s that works here", self.path, CUDA)
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> Tensor:
            pixels = images.detach().float().contiguous().cpu().numpy()
            logits = session.run(None, {name: pixels})[0]
            return torch.from_numpy(np.array(logits)).to(images.device)

        return run
