# shellcheck shell=bash
# Sourced by launch/test.sh and .ci/run: what tests need beyond Python packages. Where it cannot be had, they are skipped
# with the reason, unless PREF_DIST_TESTS_NEED names it.

# Whether packages of the system can be installed here.
apt_works() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq >/dev/null 2>&1
}

# apt_install WHAT PACKAGE...: quietly; what fails is only told.
apt_install() {
  local what=$1
  shift
  if ! apt_works; then
    echo "test_tools.sh: $what cannot be installed here (root and apt-get are needed)" >&2
    return 0
  fi
  echo "test_tools.sh: installing $what (first time: up to a minute)"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    echo "test_tools.sh: $what could not be installed; its tests are skipped" >&2
}

# tests/report/ opens reports in a browser.
install_chromium() {
  command -v chromium chromium-browser google-chrome >/dev/null || apt_install Chromium chromium fonts-dejavu-core
}

# tests/slurm/ starts a real Slurm of its own.
install_slurm() {
  if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then return 0; fi
  apt_install Slurm slurm-wlm munge
}
