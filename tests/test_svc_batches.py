"""Pieces of one length are sung together, and sound as they do alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import golden_svc as golden
from trt_svc.difference import difference
from trt_svc.errors import InputError, QualityError
from trt_svc.noise import Noise, NoiseField
from trt_svc.svc.listening import Heard
from trt_svc.svc.pieces import Piece
from trt_svc.svc.pipeline import SVCPipeline
from trt_svc.svc.take import in_batches

RATE = 44100
MIX = {"alice": [[0, 1, 1, 0]], "bob": [[0, 1, 0, 1]]}


def encoder(wave: np.ndarray) -> torch.Tensor:
    weights = torch.from_numpy(golden.u("batches", (400, 256), 1).astype(np.float32) - 0.5)
    return (torch.from_numpy(wave).unfold(0, 400, 320) @ weights).T[None] * 0.3


def glide(seconds: float) -> np.ndarray:
    at = np.arange(int(RATE * seconds)) / RATE
    return (0.3 * np.sin(2 * np.pi * (220 * at + 20 * np.sin(at)))).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"speaker": "bob"},
        {"speaker_mix": MIX},
        {"speaker": "bob", "diffusion": "shallow", "second_encoding": True, "loudness_share": 0.5},
        {"speaker_mix": MIX, "diffusion": "only"},
        {"speaker": "bob", "enhance": True},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_together_and_alone(options: dict[str, Any]) -> None:
    made, calls = [], []
    for batch in (1, 3):
        pipe = SVCPipeline.from_pretrained(golden.FOLDER / "e2e", encoder=encoder, batch=batch)
        made.append(pipe((glide(4), RATE), f0="dio", clip_s=1, overlap_s=0.2, **options))
        assert pipe.last is not None
        stage = "diffusion" if options.get("diffusion") == "only" else "decoder"
        calls.append(next(told.calls for told in pipe.last.stages if told.name == stage))
    assert calls[1] < calls[0]
    assert difference(made[1], made[0]).snr_db > 100


def heard(frames: int) -> Heard:
    curve = np.zeros((1, frames), np.float32)
    return Heard(curve, curve[None], curve, curve, curve)


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([5, 5, 5, 5], 1, [[5], [5], [5], [5]]),
        ([5, 5, 5, 5], 3, [[5, 5, 5], [5]]),
        ([5, 6, 6, None, 6, 5], 4, [[5], [6, 6, None, 6], [5]]),
        ([None, 5, None, 5, None], 2, [[None, 5, None, 5, None]]),
        ([None, None], 2, [[None, None]]),
        ([], 2, []),
    ],
)
def test_groups_keep_the_order(lengths: Sequence[int | None], most: int, expected: list[list[int | None]]) -> None:
    pieces = [(Piece(i, i + 1), None if n is None else heard(n)) for i, n in enumerate(lengths)]
    groups = list(in_batches(iter(pieces), most))
    assert [one for group in groups for one in group] == pieces
    assert [[None if sound is None else sound.frames for _, sound in group] for group in groups] == expected


def test_one_piece_at_a_time_waits_for_nothing() -> None:
    def endless() -> Any:
        yield Piece(0, 1), heard(3)
        raise AssertionError("the next piece was asked for")

    assert len(next(in_batches(endless(), 1))) == 1


def test_noise_belongs_to_a_place_in_the_song() -> None:
    fields = (NoiseField("hiss", "normal", 3, 2),)
    whole = Noise(fields, (7,)).over("hiss", 0, 20)
    moved = Noise(fields, (7, 7), first_frame=(5, 11)).over("hiss", 1, 4)
    np.testing.assert_array_equal(moved[0], whole[0, :, 12:18])
    np.testing.assert_array_equal(moved[1], whole[0, :, 24:30])
    for wrong in (-1, (1,), 1.5):
        with pytest.raises(InputError, match="first frame"):
            Noise(fields, (7, 7), first_frame=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [0, 1.5, True, 1000])
def test_bad_batches(batch: Any) -> None:
    with pytest.raises(InputError, match="batch"):
        SVCPipeline.from_pretrained(golden.FOLDER / "e2e", encoder=encoder, batch=batch)


def test_a_decoder_without_an_engine_runs_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))

    def refused(*_: Any, **__: Any) -> Any:
        raise QualityError("an engine", "it is 12.0 dB from torch.", "Use fp32.")

    monkeypatch.setattr("trt_svc.build._built", refused)
    pipe = SVCPipeline.from_pretrained(golden.FOLDER / "e2e", encoder=encoder, backend="onnxruntime")
    with pytest.warns(RuntimeWarning, match="decoder: no engine"):
        made = pipe((glide(1), RATE), speaker="bob", f0="dio")
    plain = SVCPipeline.from_pretrained(golden.FOLDER / "e2e", encoder=encoder)(
        (glide(1), RATE), speaker="bob", f0="dio"
    )
    assert difference(made, plain).snr_db > 80
    assert pipe.last is not None
    assert {told.name: told.backend for told in pipe.last.stages}["decoder"] == "torch fp32"
