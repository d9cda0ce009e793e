#!/bin/sh
# Says what this machine lacks for building and what to type, and installs Debian packages
# where it may. Prints the folder of the libtorch to use; nothing for the system's.
#
#   tools/setup/system.sh         what building and running need
#   tools/setup/system.sh test    also what the tests compare against
#
# With LIBTORCH set, Debian's libtorch is left alone. Without root and without the system's
# libtorch, the torch of the python3 that comes first in PATH serves: a virtual environment's.
set -eu
cd "$(dirname "$0")/../.."

wanted=""
need() { # need PACKAGE if the test command that follows fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || wanted="$wanted $package"
}
root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }
python_torch() {
	python3 -c 'import importlib.util, os
found = importlib.util.find_spec("torch")
for place in found.submodule_search_locations if found else []:
    if os.path.exists(os.path.join(place, "include/torch/csrc/api/include/torch/version.h")): print(place)' 2>/dev/null
}

go=$(sed -n 's/^go //p' go.mod)
lacks_go=""
if ! command -v go >/dev/null; then
	lacks_go="Go $go is missing"
elif have=$(go env GOVERSION 2>&1) || true; [ "$(printf '%s\n' "go$go" "$have" | sort -V | head -n 1)" != "go$go" ]; then
	lacks_go="Go $go is needed, $(command -v go) is $have"
fi

need g++ sh -c "command -v ${CXX:-g++}"
need gcc sh -c "command -v ${CC:-gcc}"
libtorch=${LIBTORCH:-}
if [ -n "$libtorch" ]; then
	if [ ! -f "$libtorch/include/torch/csrc/api/include/torch/version.h" ]; then
		echo "LIBTORCH=$libtorch (given, or remembered in build/libtorch) holds no libtorch. Name the torch folder of a Python" >&2
		echo "  wheel, or the unpacked official zip: LIBTORCH=/path/to/torch make setup. The system's: LIBTORCH= make setup" >&2
		exit 1
	fi
else
	before=$wanted
	need libtorch-dev sh -c 'ls /usr/include/torch/csrc/api/include/torch/version.h /usr/lib/*-linux-gnu/libtorch_cpu.so ||
		ls /usr/local/include/torch/csrc/api/include/torch/version.h /usr/local/lib/libtorch_cpu.so'
	if [ "$wanted" != "$before" ] && ! root && libtorch=$(python_torch) && [ -n "$libtorch" ]; then
		echo "libtorch: taking python3's, $libtorch" >&2
		wanted=$before
	elif [ -z "$libtorch" ]; then
		# Training in several processes needs it; the rest does without.
		! root || need libgloo-dev ls /usr/include/gloo/config.h
		need libopenblas0-pthread sh -c 'ls /usr/lib/*-linux-gnu/openblas-pthread/libblas.so.3'
	fi
fi
if [ "${1:-}" = test ]; then
	need python3-torch /usr/bin/python3 -c 'import torch'
	need python3-torchvision /usr/bin/python3 -c 'import torchvision'
	need python3-numpy /usr/bin/python3 -c 'import numpy'
	need python3-grpcio /usr/bin/python3 -c 'import grpc'
	need python3-protobuf /usr/bin/python3 -c 'import google.protobuf'
	need python3-pip /usr/bin/python3 -c 'import setuptools, wheel, pip' # python3-wheel comes with it
	need protobuf-compiler sh -c 'command -v protoc'
fi

advise() { # advise what stops set-up
	if [ -n "$lacks_go" ]; then
		echo "$lacks_go. Unpack it anywhere (go.dev/doc/install, no root needed), then:" >&2
		echo "  PATH=/path/to/go/bin:\$PATH make setup" >&2
	fi
	[ -n "$wanted" ] || return 0
	echo "missing:$wanted (Debian's names)" >&2
	if command -v apt-get >/dev/null; then
		root && [ -n "$lacks_go" ] || echo "  as root: apt-get install$wanted" >&2
	else
		echo "  install them with this system's package manager" >&2
	fi
	case $wanted in
	*libtorch-dev*)
		echo "  libtorch without root: LIBTORCH=/path/to/torch make setup, with a Python wheel's torch folder or the" >&2
		echo "  official zip; or make setup in a virtual environment that has torch" >&2
		;;
	esac
	case $wanted in
	*g++*) echo "  a compiler elsewhere: CXX=/path/to/g++ CC=/path/to/gcc make setup" >&2 ;;
	esac
}
if [ -n "$lacks_go" ]; then
	advise
	exit 1
fi
if [ -n "$wanted" ]; then
	if ! command -v apt-get >/dev/null || ! root; then
		advise
		exit 1
	fi
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "installing:$wanted" >&2
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086 # the list is meant to split into words
	install() { $sudo apt-get install -y -qq --no-install-recommends $wanted >/dev/null; }
	# Package lists may be absent (a fresh container) or old (a package moved on).
	install 2>/dev/null || { $sudo apt-get update -qq && install; }
fi
[ -z "$libtorch" ] || echo "$libtorch"
