"""All probes, by what they attack."""

import inspect
from collections.abc import Callable
from types import ModuleType

from tests.security import bomb_probes, code_probes, page_probes, path_probes, secret_probes, source_probes
from tests.security.place import Place

Probe = Callable[[Place], None]
MODULES: dict[str, ModuleType] = {
    "code": code_probes, "paths": path_probes, "pages": page_probes, "secrets": secret_probes, "bombs": bomb_probes,
    "source": source_probes,
}  # fmt: skip


def is_probe(module: ModuleType, found: object) -> bool:
    """Whether it is a function of the module that takes the place and nothing else."""
    is_own = inspect.isfunction(found) and found.__module__ == module.__name__
    return (
        is_own
        and list(inspect.signature(found).parameters) == ["place"]
        and inspect.get_annotations(found)["return"] is None
    )


PROBES: dict[str, Probe] = {
    f"{area}: {name.replace('_', ' ')}": found
    for area, module in MODULES.items()
    for name, found in vars(module).items()
    if is_probe(module, found)
}
