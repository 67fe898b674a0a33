#!/bin/sh
# Install the registry that packages are pushed to in tests, and what pushes them, unless both are there.
set -eu
command -v docker-registry >/dev/null && command -v skopeo >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get -qq update
DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq --yes --no-install-recommends install docker-registry skopeo
