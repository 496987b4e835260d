# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by ci/run and ci/test: installs what is missing and leaves kvtest in .venv. Nothing is done twice.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=${PATH//"$PWD/.venv/bin:"/} # of an activated .venv, which is not what .venv is to be made with

# Where it is set, as in many container images, each of the hundreds of processes of a run compiles all of kvtest anew.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*" >&2; }

# What is needed: a test that it is there, the Debian package that brings it.
# $1: "tests" for what only kvtest's own tests need
missing_packages() {
  # Tests start one of their own. Debian starts another, for everybody, so that nothing else here asks for it.
  [ "${1-}" != tests ] || PATH=$PATH:/usr/sbin:/sbin command -v sshd >/dev/null || echo openssh-server
  command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86
  command -v mmdebstrap >/dev/null || echo mmdebstrap
  PATH=$PATH:/usr/sbin:/sbin command -v modprobe >/dev/null || echo kmod # where users without root do not look
  command -v busybox >/dev/null || echo busybox-static # what containers are made of
  command -v containerd-shim-runc-v2 >/dev/null || echo containerd
  PATH=$PATH:/usr/sbin:/sbin command -v runc >/dev/null || echo runc
  PATH=$PATH:/usr/sbin:/sbin command -v mkfs.erofs >/dev/null || echo erofs-utils # disks of the reference runtime's pods
  PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null || echo iproute2 # tests make networks with it
  command -v xz >/dev/null || echo xz-utils
  python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || echo python3-venv
}

# $1: as for missing_packages
install_packages() {
  local packages
  mapfile -t packages < <(missing_packages "${1-}")
  [ ${#packages[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "kvtest needs what Debian calls: ${packages[*]} (with Python 3.11 or newer)."
    say "  hint: there is no apt-get here; install them with your package manager, then run this again."
    exit 2
  fi
  if [ "$(id -u)" != 0 ]; then
    say "kvtest needs these packages: ${packages[*]}"
    say "  hint: sudo apt-get install --no-install-recommends ${packages[*]}"
    exit 2
  fi
  say "Installing ${packages[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
         "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get could not install ${packages[*]}; its whole output is in $log"
    exit 2
  fi
  rm -f "$log"
  mapfile -t packages < <(missing_packages "${1-}")
  if [ ${#packages[@]} -gt 0 ]; then
    say "Still missing after apt-get install: ${packages[*]}"
    say "  hint: kvtest needs Python 3.11 or newer as python3, and these programs on PATH."
    exit 2
  fi
}

# $1: what to install besides kvtest itself, such as [dev]
install_kvtest() {
  local stamp
  stamp="$(python3 -c 'import sys; print(sys.version)') $PWD $1 $(sha256sum <pyproject.toml)"
  # What holds the extras also serves whoever needs none.
  if [ -x .venv/bin/kvtest ] && { [ "$(cat ".venv/kvtest-stamp$1" 2>/dev/null)" = "$stamp" ]; }; then
    return 0
  fi
  say "Installing kvtest$1 into .venv"
  [ -x .venv/bin/python ] && [ "$(cat .venv/kvtest-python 2>/dev/null)" = "$(command -v python3)" ] || {
    rm -rf .venv
    python3 -m venv .venv
    command -v python3 >.venv/kvtest-python
  }
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$1"
  printf '%s' "$stamp" >".venv/kvtest-stamp$1"
}
