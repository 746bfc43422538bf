"""What a contender's audio sounds like beside torch float32 and the recording: one kind of metric a file."""

from trt_svc.bench.quality.base import Metric, Pair, SaysNothing, judged, metrics

__all__ = ["Metric", "Pair", "SaysNothing", "judged", "metrics"]
