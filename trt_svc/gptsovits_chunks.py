"""How GPT-SoVITS v3 and v4 cut their mels, so that engines are built for those lengths and never cut one again."""

from __future__ import annotations

from dataclasses import dataclass

from trt_svc.config import AudioSpec


@dataclass(frozen=True)
class ChunkConstants:
    """Upstream's numbers, in mel frames."""

    version: str
    sample_rate: int
    hop: int
    ref_frames: int
    """T_ref: longest reference in front of a chunk."""
    chunk_frames: int
    """T_chunk: reference and new frames together."""
    overlap_frames: int
    """overlapped_len: frames that neighbours of the batched mode share before they are cross-faded."""

    @property
    def overlap_samples(self) -> int:
        return self.overlap_frames * self.hop


MEL_BANDS = 100
V3 = ChunkConstants("v3", 24000, 256, 468, 934, 12)
V4 = ChunkConstants("v4", 48000, 480, 500, 1000, 12)


def chunks_of(spec: AudioSpec) -> ChunkConstants | None:
    """The constants of the version that uses such a vocoder, if any does."""
    for version in (V3, V4):
        if (spec.sample_rate, spec.hop, spec.n_mels) == (version.sample_rate, version.hop, MEL_BANDS):
            return version
    return None
