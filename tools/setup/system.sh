#!/bin/sh
# Installs the system packages that building needs and the machine lacks.
#
#   tools/setup/system.sh         what building and running need
#   tools/setup/system.sh test    also what the tests compare against
#
# With LIBTORCH set, Debian's libtorch is left alone. Where apt-get does not
# exist, it only says what is missing.
set -eu

wanted=""
need() { # need PACKAGE if the test command that follows fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || wanted="$wanted $package"
}

need g++ sh -c "command -v ${CXX:-g++}"
need gcc sh -c 'command -v gcc'
if [ -z "${LIBTORCH:-}" ]; then
	need libtorch-dev sh -c 'ls /usr/include/torch/csrc/api/include/torch/version.h /usr/lib/*-linux-gnu/libtorch_cpu.so ||
		ls /usr/local/include/torch/csrc/api/include/torch/version.h /usr/local/lib/libtorch_cpu.so'
	need libopenblas0-pthread sh -c 'ls /usr/lib/*-linux-gnu/openblas-pthread/libblas.so.3'
fi
if [ "${1:-}" = test ]; then
	need python3-torch /usr/bin/python3 -c 'import torch'
	need python3-torchvision /usr/bin/python3 -c 'import torchvision'
	need python3-numpy /usr/bin/python3 -c 'import numpy'
	need python3-grpcio /usr/bin/python3 -c 'import grpc'
	need python3-protobuf /usr/bin/python3 -c 'import google.protobuf'
	need protobuf-compiler sh -c 'command -v protoc'
fi
[ -n "$wanted" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "missing:$wanted (Debian's package names)" >&2
	echo "install them with this system's package manager, then run this again; for libtorch," >&2
	echo "LIBTORCH=/path/to/libtorch takes the official zip or a Python wheel's torch folder" >&2
	exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "missing:$wanted; run as root: apt-get install$wanted" >&2
		exit 1
	fi
	sudo=sudo
fi
echo "installing:$wanted"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the list is meant to split into words
install() { $sudo apt-get install -y -qq --no-install-recommends $wanted >/dev/null; }
# Package lists may be absent (a fresh container) or old (a package moved on).
install 2>/dev/null || { $sudo apt-get update -qq && install; }
