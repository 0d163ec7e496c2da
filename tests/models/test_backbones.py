"""Any torchvision classifier by name, and weights from torchvision's cache, from files, or not at all."""

import functools
import hashlib
import http.server
import os
import pickle
import socket
import threading
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision.models
from torchvision.models import Weights, WeightsEnum

from mura.errors import ConfigError, MuraError
from mura.models import weights as weights_module
from mura.models.backbones import build_network, imagenet_entry, torchvision_backbone
from mura.models.weights import imagenet_file, load_file

torch.set_num_threads(1)

EVERY = torchvision.models.list_models(module=torchvision.models)
# RegNet computes its widths with tensors and can't be built without storage
WITHOUT_STORAGE = [name for name in EVERY if not name.startswith("regnet")]
ONE_OF_EACH_FAMILY = [
    ("convnext_tiny", 32),
    ("densenet121", 32),
    ("efficientnet_b0", 32),
    ("googlenet", 32),
    ("inception_v3", 75),
    ("mnasnet0_5", 32),
    ("mobilenet_v2", 32),
    ("mobilenet_v3_small", 32),
    ("regnet_x_400mf", 32),
    ("resnet18", 32),
    ("shufflenet_v2_x0_5", 32),
    ("squeezenet1_1", 32),
    ("swin_t", 32),
]


def whole_model(name):
    torch.manual_seed(1)
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **extra).eval()


@pytest.fixture
def save(tmp_path):
    """Saves to a file that is gone after the test: pytest keeps its folders, and these are large."""
    files = []

    def to_file(content, name="weights.pth", **options):
        files.append(tmp_path / name)
        torch.save(content, files[-1], **options)
        return str(files[-1])

    yield to_file
    for file in files:
        file.unlink()


@pytest.fixture
def small():
    """A state dict that looks like torchvision's of MobileNet V3, its classifier included."""
    return whole_model("mobilenet_v3_small").state_dict()


def build(weights, name="mobilenet_v3_small", head="linear", **options):
    return build_network(name, head=head, weights=weights, **options)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- architectures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_STORAGE)
def test_every_torchvision_classifier_gives_the_features_it_promises(name):
    side = torchvision.models.get_model_weights(name).DEFAULT.meta["min_size"][0]
    side = 224 if name.startswith(("vit", "maxvit")) else max(side, 32)
    with torch.device("meta"):
        backbone = torchvision_backbone(name)
        assert backbone.module.eval()(torch.empty(2, 3, side, side)).shape == (2, backbone.n_features)


@pytest.mark.parametrize(("name", "side"), ONE_OF_EACH_FAMILY)
def test_a_whole_torchvision_model_gives_its_backbone_the_features_of_its_last_layer(name, side, save):
    whole = whole_model(name)
    fed = []
    path = torchvision_backbone(name).classifier
    network = build(save(whole.state_dict()), name).eval()
    images = torch.randn(2, 3, side, side)
    whole.get_submodule(path).register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    if hasattr(whole, "transform_input"):  # torchvision sets it when it loads weights
        whole.transform_input = True
    with torch.no_grad():
        whole(images)
        features, logits = network.backbone(images), network(images)
    expected = fed[0] if fed[0].dim() == 2 else fed[0].mean(dim=(2, 3))  # SqueezeNet's is a map
    # untrained, some of them give features of 1e4: near is near by the largest
    assert (features - expected).abs().max() < 1e-4 * expected.abs().max()
    assert features.shape == (2, network.n_features)
    assert logits.shape == (2, 1)
    assert (network.channels, len(network.mean), len(network.std)) == (3, 3, 3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet"])
def test_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    network = build(None, name, dropout=0.0)
    network(torch.randn(4, 3, 64, 64)).pow(2).sum().backward()
    assert [key for key, each in network.named_parameters() if each.grad is None] == []


@pytest.mark.parametrize(("name", "n_features"), [("resnet18", 512), ("resnet50", 2048), ("densenet121", 1024)])
def test_features_are_as_many_as_kumars(name, n_features):
    with torch.device("meta"):
        assert torchvision_backbone(name).n_features == n_features


def test_normalisation_is_imagenets():
    network = build(None)
    assert network.mean == (0.485, 0.456, 0.406)
    assert network.std == (0.229, 0.224, 0.225)


def test_a_vision_transformer_names_the_one_size_it_takes():
    with torch.device("meta"):
        network = build_network("vit_b_32", head="linear", weights=None)
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1)
        with pytest.raises(
            ConfigError, match=r"vit_b_32 .* 224 pixels on a side, not 64 x 64: set data\.image_size=224"
        ):
            network(torch.empty(2, 3, 64, 64))


def test_a_picture_too_small_for_inception_is_refused():
    with torch.device("meta"):
        network = build_network("inception_v3", head="linear", weights=None)
        with pytest.raises(ConfigError, match=r"75 pixels or more .*not 64 x 64"):
            network(torch.empty(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("typed", "meant"), [("resnet81", "resnet18"), ("densnet121", "densenet121"), ("cnn3", "cnn2"), ("zzz", "resnet18")]
)
def test_an_unknown_name_is_refused_with_the_nearest(typed, meant):
    with pytest.raises(ConfigError, match=f"model.name={typed} .*nearest: .*{meant}") as caught:
        build(None, typed)
    assert "\n" not in str(caught.value)


def test_a_detector_of_torchvision_is_no_classifier():
    with pytest.raises(ConfigError):
        build(None, "maskrcnn_resnet50_fpn")


# --- weights from a file -----------------------------------------------------------------------------------


def test_no_weights_are_said_to_be_random():
    assert build(None).origin == "random"


@pytest.mark.parametrize("wrapper", ["", "module.", "network.", "net.", "model."])
def test_a_wrapped_model_is_unwrapped(wrapper, small, save):
    state = {f"{wrapper}{key}": each for key, each in small.items()}
    loaded = build(save({"state_dict": state | ({"loss.weight": torch.ones(1)} if wrapper else {})}))
    expected = {key: each for key, each in small.items() if not key.startswith("classifier.3.")}
    assert same(loaded.backbone.state_dict(), expected)


def test_a_bare_backbone_is_taken(save):
    before = build(None)
    file = save(before.backbone.state_dict())
    after = build(file)
    assert same(before.backbone.state_dict(), after.backbone.state_dict())
    assert after.origin == f"backbone from {file}"


@pytest.mark.parametrize("name", ["cnn4", "mnasnet0_5"])
def test_a_checkpoint_of_this_project_brings_backbone_and_head(name, save):
    before = build(None, name, head="cnn4")
    state = torch.nn.ModuleDict({"network": before}).state_dict()
    after = build(
        save({"state_dict": state, "hyper_parameters": {"name": name}, "epoch": 3}, "best.ckpt"), name, "cnn4"
    )
    assert same(before.state_dict(), after.state_dict())
    assert after.origin.startswith("backbone and head from")


@pytest.mark.parametrize("other", [{"head": "linear"}, {"head": "cnn4", "heads": 7}])
def test_a_checkpoint_with_another_head_brings_its_backbone_only(other, save):
    before = build(None, "cnn4", head="cnn4")
    file = save({"state_dict": torch.nn.ModuleDict({"network": before}).state_dict()}, "best.ckpt")
    torch.manual_seed(5)
    after = build(file, "cnn4", **other)
    torch.manual_seed(5)
    fresh = build(None, "cnn4", **other)
    assert same(before.backbone.state_dict(), after.backbone.state_dict())
    assert same(fresh.head.state_dict(), after.head.state_dict())
    assert after.origin == f"backbone from {file}, another head"


def as_in_2017(state):
    """A state dict as torchvision's DenseNet files are: norm.1 for norm1, and no count of batches."""
    old = OrderedDict()
    for key, each in state.items():
        if not key.endswith("num_batches_tracked"):
            for part in ("norm", "conv"):
                for number in "12":
                    if "denselayer" in key:
                        key = key.replace(f".{part}{number}.", f".{part}.{number}.")
            old[key] = each
    return old


def test_torchvisions_own_densenet_file_is_read_as_it_lies_on_its_server(save):
    state = whole_model("densenet121").state_dict()
    old = as_in_2017(state)
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    loaded = build(save(old, _use_new_zipfile_serialization=False), "densenet121").backbone.state_dict()
    assert same(loaded, {key: each for key, each in state.items() if not key.startswith("classifier.")})


# --- files that will not do ------------------------------------------------------------------------------------


def refusal(weights, name="mobilenet_v3_small"):
    """The sentence that refuses `weights`."""
    with pytest.raises(MuraError) as caught:
        build(str(weights), name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    for weights in (tmp_path / "none.pth", "imagenett", tmp_path):
        assert f"model.weights: {weights} is neither imagenet nor null nor a file" in refusal(weights)


@pytest.mark.parametrize("content", [b"", b"hello, I am a text\n", bytes(range(256)) * 8, b"PK\x03\x04 no zip"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    assert "x.pth is no PyTorch checkpoint, or a damaged one" in refusal(tmp_path / "x.pth")


def test_a_truncated_checkpoint_is_refused(small, save):
    file = Path(save(small))
    file.write_bytes(file.read_bytes()[:100_000])
    assert "is no PyTorch checkpoint, or a damaged one" in refusal(file)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"epoch": 1}, torch.ones(2)])
def test_a_checkpoint_without_a_state_dict_is_refused(content, save):
    assert "holds no state dict" in refusal(save(content))


def test_a_file_of_another_architecture_is_refused_with_counts(save):
    said = refusal(save(whole_model("squeezenet1_1").state_dict()))
    assert "of another architecture" in said
    assert "the first: features.0.0.weight" in said


def test_one_missing_one_misshapen_and_one_unexpected_tensor_are_counted(small, save):
    del small["features.0.1.bias"]
    small["features.0.0.weight"] = torch.ones(16, 1, 3, 3)
    small["more"] = torch.ones(1)
    said = refusal(save(small))
    assert "1 are missing, 1 of another shape, 1 unexpected" in said
    assert "the first: features.0.0.weight [16, 1, 3, 3] for [16, 3, 3, 3]" in said


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_a_file_that_carries_code_is_refused_and_the_code_does_not_run(how, tmp_path):
    sprung, file = tmp_path / "sprung", tmp_path / "trap.ckpt"
    content = {"state_dict": {"a": torch.ones(1)}, "hyper_parameters": Trap(sprung)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    assert "carries code (posix.system) and was refused without running it" in refusal(file)
    assert not sprung.exists()


def test_a_pickled_module_is_refused_with_what_to_save_instead(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.ReLU()), tmp_path / "module.pth")
    assert "save only model.state_dict()" in refusal(tmp_path / "module.pth")


# --- torchvision's weights -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def no_network(monkeypatch):
    """Every connection goes to a proxy that is not there, whatever this machine's network."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


def test_without_a_network_one_sentence_names_the_three_ways_out(cache, no_network):
    began = time.monotonic()
    said = refusal("imagenet", "resnet50")
    assert time.monotonic() - began < 5
    assert f"run once with a network (the file then lies in {cache})" in said
    assert "resnet50-0676ba61.pth elsewhere and give model.weights=/path/to/resnet50-0676ba61.pth" in said
    assert "model.weights=null to train from scratch" in said
    assert list(cache.glob("*")) == []


def test_a_network_that_never_answers_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(weights_module, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        began = time.monotonic()
        assert "could not be downloaded" in refusal("imagenet")
        assert time.monotonic() - began < 5


def test_a_name_lookup_that_hangs_is_given_up(cache, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(weights_module, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(20) and [])
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "no answer within 0.2 s" in refusal("imagenet")
    release.set()


def test_a_cached_file_needs_no_network(cache, no_network, small):
    cache.mkdir(parents=True)
    torch.save(small, cache / "mobilenet_v3_small-047dcff4.pth")
    network = build("imagenet")
    (cache / "mobilenet_v3_small-047dcff4.pth").unlink()
    assert same(network.backbone.state_dict(), {k: v for k, v in small.items() if not k.startswith("classifier.3.")})
    assert "mobilenet_v3_small-047dcff4.pth" in network.origin


def test_a_damaged_cached_file_is_named(cache, no_network):
    cache.mkdir(parents=True)
    (cache / "mobilenet_v3_small-047dcff4.pth").write_bytes(b"half a downl")
    assert f"{cache / 'mobilenet_v3_small-047dcff4.pth'} is no PyTorch checkpoint" in refusal("imagenet")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "resnet18-f37072fd.pth"),
        ("resnet50", "resnet50-0676ba61.pth"),
        ("densenet121", "densenet121-a639ec97.pth"),
        ("densenet169", "densenet169-b2777c0a.pth"),
        ("regnet_y_128gf", "regnet_y_128gf_lc_swag-cbe8ce12.pth"),
        ("vit_h_14", "vit_h_14_lc_swag-c1eb923e.pth"),
    ],
)
def test_imagenet_means_torchvisions_first_weights(name, file, cache, no_network):
    with pytest.raises(MuraError, match=file.replace(".", r"\.")):
        imagenet_file(name, imagenet_entry(name))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with an empty folder: folder, address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def served(server, name, content):
    (server[0] / name).write_bytes(content)
    entry = Weights(url=f"{server[1]}/{name}", transforms=None, meta={})
    return WeightsEnum("Served", {"V1": entry}).V1


def test_a_download_lands_in_the_cache_and_is_used(cache, server, small, tmp_path):
    torch.save(small, tmp_path / "source")
    content = (tmp_path / "source").read_bytes()
    entry = served(server, f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth", content)
    file = imagenet_file("mobilenet_v3_small", entry)
    assert file.parent == cache
    assert file.read_bytes() == content
    network = build(None)
    load_file(file, network.backbone, network.head, "classifier.3")
    assert torch.equal(network.backbone.state_dict()["features.0.0.weight"], small["features.0.0.weight"])
    file.unlink()


def test_a_download_with_another_hash_is_refused_and_leaves_nothing(cache, server):
    with pytest.raises(MuraError, match="invalid hash value"):
        imagenet_file("small", served(server, "small-00000000.pth", b"not what was promised"))
    assert list(cache.glob("*")) == []


def test_a_file_that_the_server_lacks_is_refused(cache, server):
    entry = served(server, "small-00000000.pth", b"")
    (server[0] / "small-00000000.pth").unlink()
    with pytest.raises(MuraError, match="HTTP Error 404"):
        imagenet_file("small", entry)
