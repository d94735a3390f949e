"""Models of other packages, each built by the package itself with random weights: there is no network here."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench import CertifySettings, Smoothed, load_model
from bench.audit.verify import _compare, _rows_of, rows_with_a_model
from bench.certify.engine import Engine
from bench.certify.examine import examine
from bench.data import ImageSet
from bench.models.classifier import channels_of
from bench.models.denoisers import Denoised
from bench.models.external import ModelError
from bench.models.onnx_files import OnnxRuntime
from bench.models.preprocessing import Preprocessed
from bench.models.shelf import IMAGENET, SourceError, shelf_name
from bench.models.sources import _moved, open_model
from results import read_run
from results.store.folder import RunFolder
from tests.command import bench

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def loaded(text: str) -> Preprocessed:
    model = load_model(text, sigma=0.5)
    assert isinstance(model, Preprocessed)
    return model


def normalised(images: Tensor, model: Preprocessed, size: int, mode: str) -> Tensor:
    resized = F.interpolate(images, (size, size), mode=mode, antialias=True)
    return (resized - model.mean) / model.std


# --- timm -----------------------------------------------------------------------------------------------------------


def test_a_network_of_timm_is_given_what_its_own_transforms_give() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = loaded("timm:test_vit@weights=random,classes=7")
    own = timm.create_model("test_vit", pretrained=False, num_classes=7).eval()
    own.load_state_dict(model.network.state_dict())
    config = timm.data.resolve_model_data_config(own)
    assert config["interpolation"] == "bicubic"
    transform = timm.data.create_transform(**config, is_training=False)
    size = config["input_size"][1]
    images = torch.rand(2, 3, size, size)
    by_timm = torch.stack([transform.transforms[-1](image) for image in images])  # its last one normalises
    with torch.inference_mode():
        assert torch.allclose(model(images), own(by_timm), atol=1e-5)
        expected = own(normalised(IMAGES, model, size, "bicubic"))
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)
    assert model(IMAGES).shape == (4, 7)


def test_drawn_weights_are_the_same_every_time_and_others_come_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    first, again = (open_model("timm:test_vit@weights=random") for _ in range(2))
    assert first.weights == again.weights
    torch.manual_seed(5)
    other = timm.create_model("test_vit", pretrained=False, num_classes=3).eval()
    save_file(other.state_dict(), tmp_path / "own.safetensors")
    source = open_model(f"timm:test_vit@weights={tmp_path / 'own.safetensors'}")
    assert source.num_classes == 3  # as the file has it
    assert source.weights != first.weights
    assert all(
        torch.equal(tensor, source.model.state_dict()[f"network.{key}"]) for key, tensor in other.state_dict().items()
    )
    save_file({"a": torch.zeros(1)}, tmp_path / "own.safetensors")
    with pytest.raises(SourceError, match=r"own\.safetensors: not the weights of a test_vit"):
        open_model(f"timm:test_vit@weights={tmp_path / 'own.safetensors'}")


# --- torchvision ----------------------------------------------------------------------------------------------------


def test_a_network_of_torchvision_is_given_what_its_own_transforms_give() -> None:
    from torchvision.models import get_model, get_model_weights

    model = loaded("torchvision:mobilenet_v3_small@weights=random")
    own = get_model("mobilenet_v3_small", weights=None).eval()
    own.load_state_dict(model.network.state_dict())
    transforms = get_model_weights("mobilenet_v3_small").DEFAULT.transforms()
    images = torch.rand(1, 3, transforms.resize_size[0], transforms.resize_size[0])
    by_torchvision = transforms(images)
    edge = (transforms.resize_size[0] - 224) // 2
    with torch.inference_mode():
        cropped = images[..., edge : edge + 224, edge : edge + 224]  # which belongs to the data, not behind the noise
        assert torch.allclose(model(cropped), own(by_torchvision), atol=1e-4)
        assert torch.allclose(model(IMAGES), own(normalised(IMAGES, model, 224, "bilinear")), atol=1e-4)
    assert model.class_names[:2] == ["tench", "goldfish"]
    other = loaded("torchvision:mobilenet_v3_small@weights=random,classes=5,normalise=none")
    assert other.class_names == []
    assert channels_of(model) == channels_of(other) == 3  # also where nothing is normalised


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_b_16@weights=IMAGENET1K_SWAG_E2E_V1", 384),
        ("vit_b_16@weights=IMAGENET1K_SWAG_LINEAR_V1", 224),
        ("vit_h_14@weights=random", 518),
        ("resnet18@weights=random", None),
    ],
)
def test_a_vision_transformer_is_built_for_the_size_of_its_weights(
    name: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import WeightsEnum

    asked: list[dict[str, Any]] = []

    def built(_: str, **options: Any) -> nn.Module:
        asked.append(options)
        return nn.Linear(2, 1000, bias=False)

    monkeypatch.setattr("torchvision.models.get_model", built)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: {"weight": torch.zeros(1000, 2)})
    model = loaded(f"torchvision:{name}")
    assert [options.get("image_size") for options in asked] == [size]
    assert model.size == (size or 224, size or 224)


def test_a_network_whose_last_layer_is_a_convolution_has_the_classes_of_its_file(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    save_file(squeezenet1_1(num_classes=4).state_dict(), tmp_path / "own.safetensors")
    source = open_model(f"torchvision:squeezenet1_1@weights={tmp_path / 'own.safetensors'}")
    assert source.num_classes == 4
    assert source.model(torch.rand(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_published_weights_are_not_unpickled_and_the_network_is_built_as_for_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model, get_model_weights

    weights: Any = get_model_weights(name).DEFAULT
    more = {"transform_input": True, "init_weights": False} if name == "googlenet" else {}
    published = get_model(name, weights=None, **more).eval()
    asked: list[dict[str, Any]] = []

    def downloaded(self: object, **options: Any) -> dict[str, Tensor]:  # noqa: ARG001
        asked.append(options)
        state: dict[str, Tensor] = published.state_dict()
        return state

    monkeypatch.setattr(type(weights), "get_state_dict", downloaded)
    model = loaded(f"torchvision:{name}")
    assert [options["weights_only"] for options in asked] == [True]
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(model(images), published((images - model.mean) / model.std), atol=1e-4)


# --- transformers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A folder as transformers saves a model, without a processor."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        num_labels=10, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "my-vit")
    return tmp_path / "my-vit"


def with_processor(vit: Path, *, kind: str = "ViTImageProcessor", **settings: Any) -> Any:
    import transformers

    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(vit)
    return processor


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"size": {"height": 16, "width": 16}, "do_normalize": False},
        {"size": {"height": 16, "width": 16}, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3},
        {"size": {"height": 16, "width": 16}, "do_rescale": False, "image_std": [100.0] * 3},
        {"kind": "EfficientNetImageProcessor", "size": {"height": 16, "width": 16}, "do_center_crop": False},
    ],
)
def test_a_model_of_transformers_is_given_what_its_own_processor_gives(vit: Path, settings: dict[str, Any]) -> None:
    processor = with_processor(vit, **settings)
    model = loaded(f"hf:{vit}")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    given = processor(images=list(torch.from_numpy(pixels)), return_tensors="pt")["pixel_values"].float()
    with torch.inference_mode():
        expected = model.network(pixel_values=given).logits
        found = model(torch.from_numpy(pixels).float() / 255)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_one_channel_keeps_it_without_normalisation(vit: Path) -> None:
    import transformers

    config = transformers.ViTConfig.from_pretrained(vit, num_channels=1)
    transformers.ViTForImageClassification(config).save_pretrained(vit)
    with_processor(vit, size={"height": 16, "width": 16}, do_normalize=False)
    model = loaded(f"hf:{vit}")
    assert channels_of(model) == 1
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("kind", ["MobileViTImageProcessor", "PPLCNetImageProcessor"])
def test_a_processor_that_exchanges_channels_is_refused(vit: Path, kind: str) -> None:
    with_processor(vit, kind=kind)
    with pytest.raises(SourceError, match="its processor makes BGR of RGB"):
        open_model(f"hf:{vit}")


def test_weights_in_half_precision_are_computed_in_single(vit: Path) -> None:
    import transformers

    with_processor(vit, size={"height": 16, "width": 16})
    transformers.ViTForImageClassification.from_pretrained(vit).to(torch.bfloat16).save_pretrained(vit)
    model = loaded(f"hf:{vit}")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(IMAGES).dtype == torch.float32


def test_weights_that_are_lacking_are_not_drawn(vit: Path) -> None:
    with_processor(vit, size={"height": 16, "width": 16})
    tensors = load_file(vit / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "classifier" not in name}, vit / "model.safetensors")
    with pytest.raises(SourceError, match=r"its weights lack classifier\.bias \(2 in all\)"):
        open_model(f"hf:{vit}")


@pytest.mark.parametrize("wanted", ["mine.pth", "ranom", "IMAGENET1K_V1"])
def test_weights_of_timm_that_are_no_file_are_refused(wanted: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(SourceError, match=f"weights = {wanted}: must be random or a file"):
        open_model(f"timm:test_vit@weights={wanted}")


def test_resizing_happens_behind_the_noise_as_the_processor_does_it(vit: Path) -> None:
    processor = with_processor(vit, size={"height": 16, "width": 16}, resample=3)
    model = loaded(f"hf:{vit}")
    given = processor(images=list(255 * IMAGES), return_tensors="pt")["pixel_values"]  # bytes it would round
    with torch.inference_mode():
        expected = model.network(pixel_values=given).logits
        assert torch.allclose(model(IMAGES), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model.network(normalised(IMAGES, model, 16, "bilinear")).logits, expected, atol=1e-2)


def test_without_a_processor_the_usual_one_of_its_kind_is_said(vit: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = loaded(f"hf:{vit}")
    assert model.size == (16, 16)
    assert model.mean.flatten().tolist() == [0.5] * 3
    assert "has no preprocessor_config.json: resized and normalised as ViTImageProcessor" in caplog.text
    assert loaded(f"hf:{vit}@normalise=imagenet").mean.flatten().tolist() == pytest.approx(IMAGENET.mean)


def test_weights_that_would_be_unpickled_are_refused(vit: Path) -> None:
    torch.save(open_model(f"hf:{vit}").model.state_dict(), vit / "pytorch_model.bin")
    (vit / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="OSError"):
        open_model(f"hf:{vit}")


def test_code_that_a_model_brings_along_is_not_run(vit: Path, tmp_path: Path) -> None:
    config = (vit / "config.json").read_text()
    mark = tmp_path / "ran"
    (vit / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    replaced = config.replace('"model_type": "vit"', '"model_type": "evil"')
    assert replaced != config
    auto = '"auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"},'
    (vit / "config.json").write_text(replaced.replace("{", "{" + auto, 1))
    with pytest.raises(SourceError, match="hf:"):
        open_model(f"hf:{vit}")
    assert not mark.exists()


@pytest.mark.usefixtures("_no_figures")
def test_a_run_of_a_model_of_transformers_is_certified_verified_predicted_and_attacked(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_processor(vit, size={"height": 16, "width": 16})
    monkeypatch.chdir(tmp_path)
    options = ["--model", "hf:my-vit", "--data", "synthetic", "--sigma", ".1"]
    assert bench("certify", *options, "--n", "50", "--images", "6", "--full", "--alpha", ".01") == 0
    rows = read_run("runs/my-vit").certificates
    assert len(rows) == 6
    assert (rows["status"] == "certified").any()  # else nothing would be attacked
    monkeypatch.chdir("/")  # the folder is found again, and brings no code that would have to be named
    place = str(tmp_path / "runs" / "my-vit")
    assert bench("verify", place) == 0
    assert "6 identical" in capsys.readouterr().out
    assert bench("attack", place, "--images", "6", "--steps", "1", "--samples", "2", "--n", "100") in (0, 1)
    assert bench("predict", "--model", f"hf:{vit}", *options[2:], "--n", "50", "--images", "3") == 0
    smoothed = Smoothed(load_model(f"hf:{vit}", sigma=0.1), precision="fp32")  # its σ, its number of classes
    found = smoothed.certify(IMAGES[:1], CertifySettings(n=50, alpha=0.01))
    assert (smoothed.sigma, len(found[0].counts)) == (0.1, 10)
    moved = vit.rename(tmp_path / "moved")
    assert bench("verify", place) == 2
    assert bench("verify", place, "--model", f"hf:{moved}") == 0
    (moved / "preprocessor_config.json").unlink()
    assert bench("verify", place, "--model", f"hf:{moved}@normalise=imagenet") == 2
    assert "gives other answers" in capsys.readouterr().err


# --- ONNX -----------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        first = nn.Conv2d(channels, 6, 3, stride=2)
        self.layers = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(images))
        return 30 * logits


def written(path: Path, batch: int | None, size: int = 32, channels: int = 3) -> nn.Module:
    """A file of operations that onnx2torch knows, and the network that it is of."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    torch.manual_seed(0)
    network = Small(channels).eval()
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["pixels", "layers.0.weight", "layers.0.bias"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "head.weight", "head.bias"], ["e"], transB=1, alpha=30.0, beta=30.0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", kind, [batch or "batch", channels, size, size])],
        [helper.make_tensor_value_info("e", kind, [batch or "batch", 10])],
        [onnx.numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return network


@pytest.mark.parametrize("engine", ["onnx2torch", "onnxruntime"])
@pytest.mark.parametrize("batch", [None, 3])
def test_a_file_of_onnx_has_the_logits_of_the_network_it_is_of(
    engine: str, batch: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    network = written(tmp_path / "small.onnx", batch, size=16)
    caplog.set_level(logging.INFO)
    model = loaded(f"onnx:{tmp_path / 'small.onnx'}@engine={engine},normalise=imagenet")
    assert engine in caplog.text
    with torch.inference_mode():
        expected = network(normalised(IMAGES, model, 16, "bilinear"))
        assert torch.allclose(model(IMAGES), expected, atol=1e-4)
    certificate = Smoothed(model, 0.1, 10, device="cpu").certify(IMAGES[:1], CertifySettings(n=40))[0]
    assert sum(certificate.counts) == certificate.n
    with pytest.raises(ModelError, match="fp32 alone") if engine == "onnxruntime" else warnings.catch_warnings():
        Smoothed(model, 0.1, 10, precision="bf16", device="cpu")


@pytest.mark.parametrize("options", ["", "@normalise=none", "@normalise=0.5:0.5"])
def test_a_file_of_onnx_says_its_channels(options: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")
    written(tmp_path / "grey.onnx", None, channels=1)
    source = open_model(f"onnx:{tmp_path / 'grey.onnx'}{options}")
    assert channels_of(Denoised(nn.Identity(), source.model)) == channels_of(source.model) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    grey, colour = (ImageSet(pixels[:, :count], np.arange(8), 8) for count in (1, 3))
    assert examine(source, grey)[0] == 10
    with pytest.raises(SourceError, match="grey takes images of 1 channel, those of the data have 3"):
        examine(source, colour)


def test_onnxruntime_on_an_accelerator_is_asked_for_fp32_that_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    opened: list[Any] = []

    class Session:
        works = True

        def __init__(self, _: str, options: Any, providers: list[Any], enable_fallback: int) -> None:
            opened.append((providers, options.use_deterministic_compute, enable_fallback))
            self.providers = [name for name, _ in providers if self.works or name != "CUDAExecutionProvider"]

        def get_providers(self) -> list[str]:
            return self.providers

        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="pixels")]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    network = OnnxRuntime(Path("some.onnx"))
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    network._opened(torch.device("cuda", 1))
    options = {"device_id": 1, "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert opened == [([("CUDAExecutionProvider", options), cpu], True, 0)]
    assert not caplog.messages
    monkeypatch.setattr(Session, "works", False)
    network._opened(torch.device("cuda", 1))
    assert "some.onnx: computed on the CPU: this onnxruntime has no CUDAExecutionProvider that works" in caplog.text
    caplog.clear()
    network._opened(torch.device("cpu"))
    assert opened[-1][0] == [cpu]
    assert not caplog.messages


@pytest.mark.parametrize(("batch", "passes"), [(None, 8), (1, 8), (40, 40), (100, 64)])
def test_a_file_of_onnx_gets_its_own_batch_in_a_pass(batch: int | None, passes: int, tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")
    written(tmp_path / "large.onnx", batch, size=192)
    model = loaded(f"onnx:{tmp_path / 'large.onnx'}")
    engine = Engine(model, torch.device("cpu"), "fp32")
    assert engine.passes(torch.Size((3, 192, 192))) == passes


def test_what_onnx2torch_does_not_know_onnxruntime_runs_and_the_weights_are_the_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("onnx", "onnxruntime", "onnx2torch", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    torch.manual_seed(0)
    network, file = Small().eval(), tmp_path / "new.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.rand(2, 3, 32, 32),), file, verbose=False)  # of a newer set of operations
    assert (tmp_path / "new.onnx.data").exists()
    caplog.set_level(logging.INFO)
    source = open_model(f"onnx:{file}")
    assert "computed by onnxruntime, in fp32 and without gradients, since onnx2torch fails" in caplog.text
    with torch.inference_mode():
        assert torch.allclose(source.model(IMAGES), network(IMAGES), atol=1e-4)
    data = bytearray((tmp_path / "new.onnx.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "new.onnx.data").write_bytes(data)
    assert open_model(f"onnx:{file}").weights != source.weights
    with pytest.raises(SourceError, match="onnx2torch fails"):
        open_model(f"onnx:{file}@engine=onnx2torch")


def test_a_conversion_that_computes_something_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = written(tmp_path / "small.onnx", None)
    monkeypatch.setattr("bench.models.onnx_files._converted", lambda graph: Small().eval())
    caplog.set_level(logging.INFO)
    model = loaded(f"onnx:{tmp_path / 'small.onnx'}")
    assert "gives other logits than onnxruntime" in caplog.text
    with torch.inference_mode():
        assert torch.allclose(model(IMAGES), network(IMAGES), atol=1e-4)


@pytest.mark.usefixtures("_no_figures")
def test_a_run_of_an_onnx_file_is_verified_by_either_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    written(tmp_path / "small.onnx", None)
    monkeypatch.chdir(tmp_path)
    options = ["--data", "synthetic", "--sigma", ".1", "--n", "40", "--images", "3", "--full", "--precision", "fp32"]
    assert bench("certify", "--model", "onnx:small.onnx", *options) == 0
    assert bench("verify", "runs/small") == 0
    assert bench("verify", "runs/small", "--model", "onnx:small.onnx@engine=onnxruntime") == 0
    row = _rows_of(rows_with_a_model(RunFolder(Path("runs/small"))).head(1))[0]
    other = row.model_copy(update={"base_noisy": (row.base_noisy or 0) + 1})
    assert _compare(row, other, 1e-3).outcome == "different"
    verdict = _compare(row, other.model_copy(update={"classifier": "network in onnxruntime"}), 1e-3)
    assert verdict.outcome == "within rounding"
    assert verdict.reason == "classifier network then, network in onnxruntime now"
    written(tmp_path / "other.onnx", 3)
    assert bench("certify", "--model", "onnx:other.onnx", *options, "--out", "runs/small") == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "small.onnx").rename(tmp_path / "elsewhere" / "small.onnx")
    assert bench("verify", "runs/small") == 2  # one of the two files is not there
    assert bench("verify", "runs/small", "--model", "onnx:elsewhere/small.onnx") == 0  # and the other is left alone
    written(tmp_path / "small.onnx", 2)
    assert bench("verify", "runs/small") == 2  # another file


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision:", "must be torchvision:NAME"),
        ("torchvision:resnet51", "torchvision:resnet51: is no classifier of torchvision: it has alexnet"),
        (
            "torchvision:resnet18@weights=V9",
            "weights = V9: must be IMAGENET1K_V1, DEFAULT, random, or a file .safetensors",
        ),
        (
            "torchvision:vgg16@weights=IMAGENET1K_FEATURES",
            "weights = IMAGENET1K_FEATURES: are of features alone, not of a classifier",
        ),
        ("torchvision:resnet18@colour=red", "colour is no option of torchvision: allowed are weights, classes, norm"),
        ("torchvision:resnet18@weights=a.safetensors", "there is no file a.safetensors"),
        ("torchvision:resnet18@weights=random,classes=0", "classes = 0: must be a number of classes"),
        ("torchvision:resnet18@classes=5", "the published weights have their classes: leave out classes = 5"),
        ("torchvision:resnet18@normalise=0.5", "normalise = 0.5: must be imagenet, cifar10, half, none, or MEANS:STDS"),
        ("onnx:none.onnx", "there is no file none.onnx"),
        ("nowhere/at_all", "or RUN/TRIAL with a run that holds run.json; or one of timm:NAME"),
    ],
)
def test_a_wrong_name_gets_one_sentence(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=message):
        load_model(text)


def test_what_is_no_onnx_file_gets_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    (tmp_path / "a.onnx").write_bytes(b"PK\x03\x04 not one")
    with pytest.raises(SourceError, match="not readable as ONNX"):
        load_model(f"onnx:{tmp_path / 'a.onnx'}")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("bench.models.shelf.find_spec", lambda name: None)
    assert bench("predict", "--model", "timm:vit_tiny_patch16_224", "--sigma", ".5", "--data", "synthetic") == 2
    assert "timm:vit_tiny_patch16_224: needs the package timm: pip install timm" in capsys.readouterr().err


def test_a_name_finds_its_model_again_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.zeros(1)}, "own.safetensors")
    name = shelf_name("torchvision:resnet18@weights=own.safetensors,normalise=0.1/0.2/0.3:1/1/1")
    assert str(name) == f"torchvision:resnet18@weights={tmp_path}/own.safetensors,normalise=0.1/0.2/0.3:1/1/1"
    assert shelf_name(str(name)) == name
    assert name.normalisation is not None
    assert name.normalisation.mean == (0.1, 0.2, 0.3)


def test_one_module_loaded_for_two_sigmas_is_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_module.py").write_text(
        "from torch import nn\nmodel = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    first, second = (Smoothed(load_model("one_module:model", sigma), num_classes=2) for sigma in (0.25, 0.5))
    assert (first.sigma, second.sigma) == (0.25, 0.5)
    models = [load_model("one_module:model", sigma) for sigma in (0.25, 0.5)]
    assert [Smoothed(model, num_classes=2).sigma for model in models] == [0.25, 0.5]
    with pytest.raises(ValueError, match="num_classes = None"):
        Smoothed(models[0])
    with pytest.raises(ValueError, match="sigma = None"):
        Smoothed(load_model("one_module:model"), num_classes=2)


def test_a_file_that_moved_keeps_the_options_of_its_record() -> None:
    recorded = "onnx:/old/m.onnx@normalise=half"
    assert _moved(recorded, ["onnx:/new/m.onnx"]) == "onnx:/new/m.onnx@normalise=half"
    assert _moved(recorded, ["onnx:/new/m.onnx@normalise=none"]) == "onnx:/new/m.onnx@normalise=none"
