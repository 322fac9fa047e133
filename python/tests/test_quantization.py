"""Linear layers of 8 bits."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

from longreach import nn, quantization  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_quantised_layer_is_near_its_float_one():
    layer = torch.nn.Linear(96, 40, bias=False)
    # Rows of very different size need a scale each, and so do tokens.
    layer.weight.data *= torch.logspace(-3, 2, 40)[:, None]
    x = torch.randn(2, 7, 96) * torch.logspace(-2, 2, 7)[:, None]
    got, want = quantization.Linear.from_float(layer)(x), layer(x)
    unit = x.norm(dim=-1, keepdim=True) * layer.weight.norm(dim=1)
    assert got.shape == want.shape
    assert ((got - want) / unit).abs().max() <= 0.02 * (want / unit).abs().max()


def test_a_quantised_layer_is_the_product_of_its_rounded_numbers():
    layer = quantization.Linear.from_float(torch.nn.Linear(32, 8))
    x = torch.randn(5, 32)
    scale = x.abs().amax(1, keepdim=True).double() / 127
    rounded = (x.double() / scale).round() * scale
    want = rounded @ layer.weight().double().T + layer.bias.double()
    assert torch.allclose(layer(x).double(), want, atol=1e-5)
    assert layer(x[:0]).shape == (0, 8)


@pytest.mark.parametrize("make", [lambda: nn.Performer(dim=32, depth=1, heads=2), lambda: nn.InfiniAttention(32, 2, segment=8)])
def test_modules_are_quantised_pickled_and_copied(make):
    model = make().eval()
    x = torch.randn(1, 20, 32)
    want = model(x)
    small = quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    layers = [one for one in small.modules() if isinstance(one, quantization.Linear)]
    assert len(layers) == sum(type(one) is torch.nn.Linear for one in model.modules())
    assert not any(type(one) is torch.nn.Linear for one in small.modules())
    got = small(x)
    assert (got - want).abs().max() <= 0.03 * want.abs().max() and not torch.equal(got, want)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), got)
    again = quantization.quantize_dynamic(make())
    again.load_state_dict(copy.deepcopy(small).state_dict(), strict=True)
    assert torch.equal(again.eval()(x), got)


def test_layers_are_chosen_by_name():
    model = torch.nn.ModuleDict({"a": torch.nn.Sequential(torch.nn.Linear(4, 4)), "b": torch.nn.Linear(4, 4)})
    found = quantization.quantize_dynamic(model, {"a"})
    assert type(found["a"][0]) is quantization.Linear and type(found["b"]) is torch.nn.Linear
    found = quantization.quantize_dynamic(model, {"b"})
    assert type(found["a"][0]) is torch.nn.Linear and type(found["b"]) is quantization.Linear
    shared = torch.nn.Linear(4, 4)
    twice = quantization.quantize_dynamic(torch.nn.ModuleDict({"a": shared, "b": shared}))
    assert twice["a"] is twice["b"] and type(twice["a"]) is quantization.Linear


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"dtype": torch.float16}, "`dtype` is torch.float16, want torch.qint8"),
        ({"mapping": {}}, "`mapping` is given"),
        ({"qconfig_spec": {torch.nn.LSTM}}, "want torch.nn.Linear"),
        ({"qconfig_spec": {"head"}}, "'head', which is no module"),
    ],
)
def test_what_cannot_be_quantised_is_refused(given, part):
    with pytest.raises(ValueError, match=part):
        quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)), **given)
