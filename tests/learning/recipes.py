"""The recipes that are compared: each trains by the program's own verbs and leaves a submission for the test rows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
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

    @property
    def side(self) -> str:
        """Tokens of each side of a siamese row: together a quarter more, since the prompt stands in both."""
        return f"data.max_tokens={self.tokens * 5 // 8}"

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
    """A siamese run."""

    def run(scene: Scene) -> None:
        single("model.kind=siamese", f"model.head={head}", scene.side, *changes)(scene)

    return run


def second_stage(recipe: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Start a recipe from the weights of the same one on other rows."""

    def run(scene: Scene) -> None:
        assert scene.first is not None, "--first names the folder of the first stage"
        recipe(replace(scene, base=(*scene.base, f"model.name={scene.first / 'run'}")))

    return run


def folds(*changes: str) -> Callable[[Scene], None]:
    """Three folds, blended."""

    def run(scene: Scene) -> None:
        settings = scene.settings(("data.num_folds=3", *changes, scene.side))
        scene.verb("train", scene.out.parent / "empty.yaml", "--folds", *settings)
        scene.verb("blend", scene.out / "run", "--data", scene.test, "--out", scene.out)

    return run


def student(recipe: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """A recipe that also learns from what the folds of `blend` said of rows that they had not seen."""

    def run(scene: Scene) -> None:
        teacher = scene.beside("blend") / "oof_logits.parquet"
        taught = f"train.distill={{logits: {teacher}, temperature: 2.0, weight: 0.5}}"
        recipe(replace(scene, base=(*scene.base, taught)))

    return run


ANTISYMMETRIC: Settings = ("model.kind=siamese", "model.head=antisymmetric")
# The head's rate is for what comes to it as plain numbers.
SURFACE: Settings = ("model.surface_features=true", "train.head_learning_rate=2e-3")

RECIPES: dict[str, Callable[[Scene], None]] = {
    "joint_cls": single(),
    "joint": single(*SEGMENTS),
    "joint_smoothing": single(*SEGMENTS, "train.label_smoothing=0.1"),
    "joint_paired": single(*SEGMENTS, "train.swap=paired"),
    "joint_surface": single(*SEGMENTS, *SURFACE),
    "siamese_concat": siamese("concat"),
    "siamese_concat_paired": siamese("concat", "train.swap=paired"),
    "siamese_antisymmetric": siamese("antisymmetric"),
    "surface": siamese("antisymmetric", *SURFACE),
    "second_stage": second_stage(siamese("antisymmetric", *SURFACE)),
    "blend": folds(*ANTISYMMETRIC, *SURFACE),
    "student": student(siamese("antisymmetric", *SURFACE)),
}
