"""The commands that README.md and docs/ show: those of ```bash blocks, and those inside a line of text."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^[ ]*```bash\n(?P<text>.*?)^[ ]*```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:pref-dist|bash|pytest|python|accelerate launch|torchrun|sbatch) [^`]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command as it stands in a document; `line` counts from 1."""

    document: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read_commands(path: Path) -> list[Command]:
    """The commands of all blocks of a document, in the order in which a reader meets them."""
    text = path.read_text(encoding="utf-8")
    commands = []
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start("text")) + 1
        commands += [Command(name_of(path), first + number, said) for number, said in split_commands(block["text"])]
    return commands


def split_commands(text: str) -> list[tuple[int, str]]:
    """(line, command) of a block: a command goes on after a backslash and in a here-document."""
    commands: list[tuple[int, str]] = []
    unfinished: list[str] = []
    for number, line in enumerate(text.splitlines()):
        if not unfinished and (not line.strip() or line.lstrip().startswith("#")):
            continue
        unfinished.append(line)
        if not goes_on(unfinished):
            commands.append((number - len(unfinished) + 1, "\n".join(unfinished)))
            unfinished = []
    assert not unfinished, f"a block ends within a command: {unfinished}"
    return commands


def goes_on(lines: list[str]) -> bool:
    here = re.search(r"<<-?'?(\w+)'?", lines[0])
    if here is not None:
        return lines[-1].strip() != here[1]
    return lines[-1].endswith("\\")


def read_inline(path: Path) -> list[Command]:
    """Commands between backticks inside the text."""
    text = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))
    found = INLINE.finditer(text)
    return [Command(name_of(path), text.count("\n", 0, one.start()) + 1, " ".join(one[1].split())) for one in found]
