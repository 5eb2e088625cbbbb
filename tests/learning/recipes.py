"""The recipes that are compared: each trains by the program's own verbs and leaves a submission for the test rows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

Settings = tuple[str, ...]

SEGMENTS: Settings = ("model.pooling=segments",)


@dataclass(frozen=True)
class Scene:
    """One recipe with one seed. verb: runs a verb of the program with these arguments, and ends if it fails.

    base: settings of all recipes. first: a folder of recipes on other rows, which some start from.
    """

    verb: Callable[..., None]
    train: Path
    test: Path
    out: Path
    seed: int
    base: Settings
    tokens: int
    first: Path | None = None

    @property
    def submission(self) -> Path:
        return self.out / "submission.csv"

    def beside(self, recipe: str) -> Path:
        """Return the folder of another recipe with the same seed."""
        return self.out.with_name(f"{recipe}-{self.seed}")

    def settings(self, changes: Iterable[str]) -> list[str]:
        own = (f"run.dir={self.out / 'run'}", f"run.seed={self.seed}", f"data.train={self.train}")
        tokens = (f"data.max_tokens={self.tokens}",)
        return [word for setting in (*self.base, *tokens, *own, *changes) for word in ("--set", setting)]


def single(*changes: str) -> Callable[[Scene], None]:
    """One run, its best step chosen on a tenth of the rows."""

    def run(scene: Scene) -> None:
        scene.verb("train", scene.out.parent / "empty.yaml", *scene.settings(changes))
        scene.verb("predict", scene.out / "run", "--data", scene.test, "--out", scene.submission)

    return run


def siamese(head: str, *changes: str) -> Callable[[Scene], None]:
    """A siamese run; both sides together have a quarter more tokens, since the prompt stands in each."""

    def run(scene: Scene) -> None:
        side = f"data.max_tokens={scene.tokens * 5 // 8}"
        single("model.kind=siamese", f"model.head={head}", side, *changes)(scene)

    return run


def second_stage(*changes: str) -> Callable[[Scene], None]:
    """Start from the weights of the same recipe on other rows."""

    def run(scene: Scene) -> None:
        assert scene.first is not None, "--first names the folder of the first stage"
        single(f"model.name={scene.first / 'run'}", *changes)(scene)

    return run


def folds(*changes: str) -> Callable[[Scene], None]:
    """Three folds, blended."""

    def run(scene: Scene) -> None:
        scene.verb("train", scene.out.parent / "empty.yaml", "--folds", *scene.settings(("data.num_folds=3", *changes)))
        scene.verb("blend", scene.out / "run", "--data", scene.test, "--out", scene.out)

    return run


def student(*changes: str) -> Callable[[Scene], None]:
    """One run that also learns from what the folds of `blend` said of rows that they had not seen."""

    def run(scene: Scene) -> None:
        teacher = scene.beside("blend") / "oof_logits.parquet"
        single(f"train.distill={{logits: {teacher}, temperature: 2.0, weight: 0.5}}", *changes)(scene)

    return run


RECIPES: dict[str, Callable[[Scene], None]] = {
    "joint_cls": single(),
    "joint": single(*SEGMENTS),
    "smoothing": single(*SEGMENTS, "train.label_smoothing=0.1"),
    "paired": single(*SEGMENTS, "train.swap=paired"),
    "siamese_concat": siamese("concat"),
    "siamese_difference": siamese("difference", "train.swap=paired"),
    "siamese_antisymmetric": siamese("antisymmetric"),
    "second_stage": second_stage(*SEGMENTS, "train.swap=paired"),
    "blend": folds(*SEGMENTS, "train.swap=paired"),
    "student": student(*SEGMENTS, "train.swap=paired"),
}
