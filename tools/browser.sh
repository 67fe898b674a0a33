#!/bin/sh
# Install the browser that draws the report in tests and screenshots, unless it is there.
set -eu
command -v chromium >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get -qq update
DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq --yes --no-install-recommends install chromium fonts-dejavu-core
