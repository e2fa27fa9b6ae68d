"""Weaknesses that single frames have by themselves, such as a poor mask; a weakness may last."""

from __future__ import annotations

from resurgsam2_cli.refining.signals import Evidence, Seen, during


def counted(number: int, noun: str) -> str:
    """So many things, in words."""
    words = {0: f"no {noun}", 1: f"one {noun}"}
    return words.get(number, f"{number} {noun}s")


class Weakness:
    """A weakness of single frames, which may last.

    Subclasses say how much a frame has of it; frames in a row that have it are one piece of evidence.
    """

    kind: str
    NAMED = 0.1
    """A smaller doubt is not worth a sentence."""
    GAP = 2
    """Frames without the weakness that do not end a stretch."""
    LONGEST = 25
    """A weakness that lasts is worth another look after so many frames."""
    SAMPLED = False
    """Whether not every frame is looked at, so that its length is not exact."""

    def __init__(self) -> None:
        self.doubt = 0.0
        """Of the last frame: the share of the mask that is likely wrong for this reason, from 0 to 1."""
        self._stretch: list[tuple[Seen, float]] = []

    def measure(self, x: Seen) -> float:
        """The doubt about a frame."""
        raise NotImplementedError

    def clause(self, worst: Seen, lasting: str) -> str:
        """What is seen, given the frame that has most of it."""
        raise NotImplementedError

    def step(self, now: Seen) -> list[Evidence]:
        """Take the next frame; gives what has ended."""
        self.doubt = 0.0 if now.is_kept else self.measure(now)
        ended: list[Evidence] = []
        if self._stretch:
            first, last = self._stretch[0][0].position, self._stretch[-1][0].position
            if now.is_kept or now.position - last > self.GAP or now.position - first >= self.LONGEST:
                ended = self.finish()
        if self.doubt >= self.NAMED:
            self._stretch.append((now, self.doubt))
        return ended

    def finish(self) -> list[Evidence]:
        """Give what has not ended yet: the frame in its middle."""
        if not self._stretch:
            return []
        stretch, self._stretch = self._stretch, []
        first, last = stretch[0][0], stretch[-1][0]
        middle = stretch[len(stretch) // 2][0]
        worst = max(stretch, key=lambda x: x[1])[0]
        strength = sum(doubt for _, doubt in stretch) / len(stretch)
        clause = self.clause(worst, during(last.position - first.position + 1, "about " if self.SAMPLED else ""))
        return [Evidence(self.kind, middle.position, middle.frame, (first.frame, last.frame), strength, clause)]


class NearThreshold(Weakness):
    """The object score is a logit: the object counts as there above 0."""

    kind = "near_threshold"

    def measure(self, x: Seen) -> float:
        """Networks are surer of what is there than of what is not, so the doubt reaches farther above 0."""
        score = x.state["object_score"]
        return max(0.0, 0.4 * min(1.0, (score + 2) / 1.5, (4 - score) / 2))

    def clause(self, worst: Seen, lasting: str) -> str:
        return f"confidence is near the threshold {lasting}"


class PoorMask(Weakness):
    """The network predicts the IoU of its own mask."""

    kind = "poor_mask"

    def measure(self, x: Seen) -> float:
        return min(0.5, max(0.0, 1.3 * (0.95 - x.state["predicted_iou"]))) if x.is_there else 0.0

    def clause(self, worst: Seen, lasting: str) -> str:
        return f"the network itself rates the mask {worst.state['predicted_iou']:.2f} of 1 {lasting}"


class OnAnother(Weakness):
    """A pixel shows one thing, so one of two masks on one another is wrong."""

    kind = "overlap"
    SAMPLED = True
    FREE = 0.05
    """A share that may be rounding at the edge."""

    def measure(self, x: Seen) -> float:
        return min(0.5, max(0.0, 0.9 * (x.covered - self.FREE)))

    def clause(self, worst: Seen, lasting: str) -> str:
        return f"{worst.covered:.0%} of the mask lies on that of {worst.cover} {lasting}"


class Unusual(Weakness):
    """A count that comes and goes: what an object always has, such as an organ behind instruments, is right."""

    SAMPLED = True
    WEIGHT = 0.1
    """The doubt for each that is new or missing."""
    STEP = 0.02
    """By how much what is usual follows a frame: steps of one size, so that a few odd frames change little."""

    def __init__(self) -> None:
        super().__init__()
        self._usual: float | None = None

    def count(self, x: Seen) -> int:
        """What is counted."""
        raise NotImplementedError

    def measure(self, x: Seen) -> float:
        if not x.is_there:
            return 0.0
        count = self.count(x)
        if self._usual is None:
            self._usual = float(count)
        more = count - self._usual
        self._usual += max(-self.STEP, min(self.STEP, more))
        return min(0.3, self.WEIGHT * abs(more))


class Pieces(Unusual):
    """Pieces that come and go."""

    kind = "pieces"
    WEIGHT = 0.15

    def count(self, x: Seen) -> int:
        return x.pieces

    def clause(self, worst: Seen, lasting: str) -> str:
        return f"the mask is in {counted(worst.pieces, 'piece')} {lasting}, unlike before"


class Holes(Unusual):
    """Holes that come and go."""

    kind = "holes"

    def count(self, x: Seen) -> int:
        return x.holes

    def clause(self, worst: Seen, lasting: str) -> str:
        return f"the mask has {counted(worst.holes, 'hole')} {lasting}, unlike before"


class TextAndTrack(Weakness):
    """A pass backwards says something else than the search had said about whether the object is there."""

    kind = "text_and_track"

    def measure(self, x: Seen) -> float:
        search = x.state.get("search")
        if not isinstance(search, dict) or search.get("present") is x.is_there:
            return 0.0
        score = search.get("object_score")
        return 0.1 + min(abs(score), 3) / 10 if isinstance(score, int | float) else 0.0

    def clause(self, worst: Seen, lasting: str) -> str:
        if worst.is_there:
            return f"tracking shows the object {lasting}, where its words did not find it"
        return f"its words found the object {lasting}, where tracking does not show it"
