"""A site: what a cluster wants to know of every job, as a small YAML file (configs/sites/example.yaml has all keys)."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationError

from pref_dist.config.load import StrictLoader
from pref_dist.config.section import Section
from pref_dist.errors import ConfigError

TIME = re.compile(r"\d+(:[0-5]?\d){0,2}|\d+-\d+(:[0-5]?\d){0,2}")
MEMORY = re.compile(r"\d+[KMGT]?")
# A secret as it stands: after a name that says so, as an argument, or by its looks; not what a command or variable
# gives.
SECRET = re.compile(
    r"(?:\b|\w*_)(TOKEN|API_?KEY|SECRET(_ACCESS)?(_KEY)?|PASSWORD|PASSWD)=[\"']?(?!\d\b|true\b|false\b)(?![\"'$`\s])\S"
    r"|--?(token|api[-_]?key|password)[= ][\"']?(?![\"'$`\s])\S|wandb login (?!-|\$)\S|\bhf_[A-Za-z0-9]{20,}",
    re.IGNORECASE,
)


def refuse_number(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("write it in quotes, as in '24:00:00': without them YAML reads a number")
    return value


def check_time(value: str) -> str:
    if not TIME.fullmatch(value):
        raise ValueError("Slurm's times are minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS")
    return value


def check_memory(value: str) -> str:
    if not MEMORY.fullmatch(value):
        raise ValueError("a number with K, M, G or T, as in 200G")
    return value


def check_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("a line of the setup holds no line breaks or control characters: one item a line")
    if SECRET.search(value):
        raise ValueError(
            "a line of the setup that holds a token or password would stand in files of each run folder. Put it into a "
            "file that only you can read, and source it: '. ~/.my_tokens'"
        )
    if value.lstrip().startswith("#SBATCH"):
        raise ValueError("Slurm does not read #SBATCH lines after the first command; use the keys of the site")
    return value


Time = Annotated[str, BeforeValidator(refuse_number), AfterValidator(check_time)]
Memory = Annotated[str, AfterValidator(check_memory)]
Line = Annotated[str, AfterValidator(check_line)]


class Site(Section):
    """Every key of a site file, with its default."""

    partition: str | None = Field(None, description="Where the jobs run; null: the cluster's default.")
    prepare_partition: str | None = Field(
        None, description="Where `prepare` runs, which needs no GPU; null: partition."
    )
    prepare_cpus: PositiveInt = Field(8, description="Cores for `prepare`, which tokenises on all of them.")
    account: str | None = Field(None, description="Whom the jobs are charged to.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, description="Features that a node must have.")
    nodes: PositiveInt = Field(1, description="Nodes of each training, evaluation and prediction.")
    gpus_per_node: Annotated[int, Field(ge=0)] = Field(1, description="GPUs of each node; 0: none.")
    ranks_per_node: PositiveInt | Literal["auto"] = Field("auto", description="auto: one a GPU, without GPUs one.")
    cpus_per_node: PositiveInt = Field(8, description="Cores of each node.")
    memory_per_node: Memory | None = Field(None, description="Memory of each node; null: the cluster's default.")
    time: Time = Field("24:00:00", description="Time limit of a training; one that needs longer is put back.")
    short_time: Time = Field("04:00:00", description="Time limit of prepare, evaluate and predict.")
    parallel_folds: PositiveInt | None = Field(None, description="Folds that train at a time; null: all.")
    setup: list[Line] = Field(
        default_factory=list,
        description="Lines of bash, before each job: modules, variables. They are run as they are.",
    )

    @property
    def num_ranks(self) -> int:
        """Ranks of each node."""
        return max(1, self.gpus_per_node) if self.ranks_per_node == "auto" else self.ranks_per_node


def load_site(path: Path) -> Site:
    """Read a site file. Raises ConfigError naming every wrong key or value, and the nearest right key."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The site file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The site file {path} is not valid YAML: {error}") from error
    try:
        return Site.model_validate({} if values is None else values)
    except ValidationError as error:
        lines = dict.fromkeys(explain_problem(dict(problem)) for problem in error.errors())
        raise ConfigError(f"Wrong settings in {path}:\n" + "\n".join(lines)) from None


def explain_problem(problem: dict[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "the file"
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(name, Site.model_fields, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(Site.model_fields)}."
        return f"  {name}: there is no such key; {hint}"
    found = repr(problem["input"])
    found = "not shown" if SECRET.search(found) else found
    return f"  {name}: {problem['msg'].removeprefix('Value error, ')} (found: {found})"
