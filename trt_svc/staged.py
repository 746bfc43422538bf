"""A stream through the stages of a network, watched: on any doubt the whole network makes the block, and what follows.

The stages are a saving, not a source of truth. Beside them the inputs of the whole network are kept, one context long;
a stage that fails, or a block that looks wrong and that the whole network makes otherwise, ends the use of the stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trt_svc.arrays import joined
from trt_svc.guards import Problem, suspicion
from trt_svc.ladder import Ladder, StageFault, agree
from trt_svc.rungs import REFERENCE
from trt_svc.stages import Chain
from trt_svc.windows import Windows


class Staged:
    """As `Windows`, run stage by stage."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._rung = ladder.rung
        self._chain: Chain | None = Chain(self._rung.stages, ladder.run_stage, most_frames(ladder))
        self._whole = Windows(ladder.span, ladder.start, ladder.bounds)
        self._heard: Any = None
        """Mel of the frames whose samples have not been put out."""
        self._samples = 0
        self._cut = 0
        """Samples of the frame that was begun when the stages were left."""

    @property
    def redundancy(self) -> tuple[float, ...]:
        """Computed ticks per tick put out, by stage."""
        return (self._whole.redundancy,) if self._chain is None else tuple(w.redundancy for w in self._chain.links)

    def forget(self) -> None:
        """Drops what is kept."""
        for windows in [self._whole, *([] if self._chain is None else self._chain.links)]:
            windows.forget()

    def push(self, pieces: Mapping[str, Any], last: bool = False) -> list[Any]:
        """As `Windows.push`."""
        if self._chain is None:
            return self._rest(pieces, last)
        hop = self._ladder.voice.spec.hop
        if "mel" in pieces:
            self._heard = joined([pieces["mel"][:, :, :0] if self._heard is None else self._heard, pieces["mel"]])
        try:
            if self._ladder.rung is not self._rung:
                raise StageFault  # the session has gone down meanwhile
            made = self._chain.push(pieces, last)
        except StageFault:
            return self._by_whole(pieces, last)
        if not made:
            self._whole.watch(pieces, self._samples // hop)
            return made
        audio = joined(made)
        problem = self._problem(audio)
        if problem is not None:
            return self._second_opinion(problem, audio, pieces, last)
        self._put_out(audio)
        self._whole.watch(pieces, self._samples // hop)
        return [audio]

    def _problem(self, audio: Any) -> Problem | None:
        """Does a block look wrong beside its mel?"""
        hop = self._ladder.voice.spec.hop
        skipped = -self._samples % hop
        frames = (audio.shape[1] - skipped) // hop
        first = (self._samples + skipped) // hop - self._first_heard()
        mel = self._heard[:, :, first : first + frames]
        whole = audio[:, skipped : skipped + mel.shape[2] * hop]
        if not mel.shape[2]:
            return None
        problem = suspicion(self._ladder.voice, mel, whole, self._rung.own_distance)
        by_reference = self._rung.backend == REFERENCE
        return None if problem is None or (by_reference and not problem.certain) else problem

    def _first_heard(self) -> int:
        return self._samples // self._ladder.voice.spec.hop

    def _put_out(self, audio: Any) -> None:
        hop = self._ladder.voice.spec.hop
        before = self._first_heard()
        self._samples += int(audio.shape[1])
        self._heard = self._heard[:, :, self._samples // hop - before :]

    def _by_whole(self, pieces: Mapping[str, Any], last: bool) -> list[Any]:
        """The whole network goes on where the samples put out so far end."""
        hop = self._ladder.voice.spec.hop
        self._chain, self._cut = None, self._samples % hop
        self._whole.watch({}, self._samples // hop)
        return self._rest(pieces, last)

    def _rest(self, pieces: Mapping[str, Any], last: bool) -> list[Any]:
        made = self._whole.push(pieces, last)
        if made and self._cut:
            made[0], self._cut = made[0][..., self._cut :], 0
        return made

    def _second_opinion(self, problem: Problem, audio: Any, pieces: Mapping[str, Any], last: bool) -> list[Any]:
        found = self._by_whole(pieces, last)
        answer = joined(found) if found else audio[:, :0]
        both = min(answer.shape[1], audio.shape[1])
        if both and agree(audio[:, :both], answer[:, :both]):
            self._ladder.record.false_alarm()
        else:
            self._ladder.doubted(problem)
        return found


def most_frames(ladder: Ladder) -> Any:
    """The longest window of a stage, in mel frames, as it stands at each run."""

    def most() -> int | None:
        limits = [ladder.bounds().most, ladder.rung.stage_frames]
        return min((limit for limit in limits if limit is not None), default=None)

    return most
