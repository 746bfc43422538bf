"""Our output equals the real upstream code's, from checkpoint files in every layout they come in."""

from __future__ import annotations

from pathlib import Path

import pytest

import trt_svc
from tests import golden, parity
from tests.golden import FOLDER, GoldenNet

NETWORKS = [
    pytest.param(net, writer, id=f"{net.name}-{name}")
    for net in golden.networks()
    for name, writer in golden.layouts(net)
]


@pytest.mark.parametrize(("net", "writer"), NETWORKS)
def test_network(net: GoldenNet, writer: golden.Writer) -> None:
    assert parity.network_error(net, writer) <= net.tolerance


@pytest.mark.parametrize("check", parity.parts(), ids=lambda check: f"{check.file}-{check.what}")
def test_part(check: parity.Check) -> None:
    assert check.error() <= check.bound


@pytest.mark.parametrize("net", golden.networks(), ids=lambda net: net.name)
def test_family_and_noise_are_upstreams(net: GoldenNet, tmp_path: Path) -> None:
    vocoder = trt_svc.load_vocoder(golden.upstream_checkpoint(net, tmp_path), source=net.source)
    assert vocoder.checkpoint.family == net.family
    batch, _, frames = net.inputs["mel"].shape
    expected = {name: array.shape for name, array in net.noise.items()}
    assert vocoder.noise_spec(batch, frames) == expected
    assert list(vocoder.noise_spec(batch, frames)) == list(expected)


def test_the_real_pickled_waveglow() -> None:
    net = GoldenNet("waveglow-b2")
    vocoder = trt_svc.load_vocoder(FOLDER / "waveglow-b2-checkpoint.pt", config=net.meta["config"])
    assert golden.error_of(net, vocoder) <= net.tolerance
    assert vocoder.checkpoint.unwrapped.layout == "model (pickled module)"


def test_every_golden_file_is_compared() -> None:
    compared = {net.name for net in golden.networks()} | {check.file for check in parity.parts()}
    # The SOLA join belongs to GPT-SoVITS' streaming, not to a vocoder.
    assert {path.stem for path in FOLDER.glob("*.json")} - compared <= {"gptsovits-sola"}


def test_the_published_table_lists_every_golden_file() -> None:
    text = (Path(__file__).parents[1] / "docs" / "parity.md").read_text("utf-8")
    for path in golden.SUBSET.glob("*.json"):
        assert f"| {path.stem} |" in text
