"""The rows that a run was trained and validated on, opened again."""

from collections.abc import Mapping
from typing import Any

from pref_dist.config.schema import RunConfig
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.prepare import Prepared, digest_rows, prepare
from pref_dist.errors import DataError
from pref_dist.findings import Policies
from pref_dist.run_dir import RunDir


def open_own_rows(
    config: RunConfig, run_dir: RunDir, identity: Mapping[str, Any], watch: BuildWatch | None = None
) -> Prepared:
    """Return the run's own rows, split as in training.

    identity: what its checkpoint says of them (train.resume.Identity). Raises DataError if the files have changed.
    """
    data = config.data
    if Policies(data.bad_rows, data.checks).of("in_test") == "keep":
        # Then data.test decides over no row, and need not be there any more.
        config = config.model_copy(update={"data": data.model_copy(update={"test": None})})
    prepared = prepare(config, run_dir.model_files, watch)
    found = {"tables": [table.digest for table in prepared.tables], "valid": digest_rows(prepared.valid_rows)}
    if any(list(identity.get(name, ())) != list(value) for name, value in found.items()):
        paths = ", ".join(source.path for source in data.training_sources)
        raise DataError(
            f"{run_dir.root} was not trained on these rows: {paths}, data.valid or data.test have changed, or "
            "the split falls out otherwise (another scikit-learn). Give them back, or use --data, --no-baselines."
        )
    return prepared
