#!/bin/sh
# Chooses the libtorch that the plugins of this folder compute with:
#
#   ./setup [FOLDER]
#
# FOLDER is a Python wheel's torch folder or the official zip, unpacked; by default
# $LIBTORCH, else the torch of the python3 that comes first in PATH, else the system's.
# Where build/prebuilt has no libraries for its release, they are compiled, with g++.
set -eu
folder=${1:-${LIBTORCH:-$(python3 -c 'import importlib.util
found = importlib.util.find_spec("torch")
print(found.submodule_search_locations[0] if found else "")' 2>/dev/null || true)}}
if [ -n "$folder" ]; then
	folder=$(cd "$folder" && pwd -P)
fi
cd "$(dirname "$0")"
if [ "$folder" = /usr/lib/python3/dist-packages/torch ]; then
	folder="" # Debian's, whose headers and libraries are the system's
fi
exec build/fitgotch -shim-only -prebuilt build/prebuilt -kernels plugins/a3d/native -optional sdk/torchstage/native -optional sdk/torchstage/native/nccl/native ${folder:+-libtorch "$folder"}
