# shellcheck shell=bash
# Sourced by launch/test.sh and .ci/run: what tests need beyond Python packages. Where it cannot be had, they are skipped
# with the reason, unless PREF_DIST_TESTS_NEED names it.

# Whether packages of the system can be installed here.
apt_works() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq >/dev/null 2>&1
}

# tests/slurm/ starts a real Slurm of its own.
install_slurm() {
  if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then return 0; fi
  if ! apt_works; then
    echo "test_tools.sh: slurm-wlm and munge cannot be installed here (root and apt-get are needed)" >&2
    return 0
  fi
  echo "test_tools.sh: installing slurm-wlm and munge"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null ||
    echo "test_tools.sh: slurm-wlm and munge could not be installed; tests/slurm/ is skipped" >&2
}
