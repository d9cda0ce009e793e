#!/bin/bash
# Compiles and links for CUDA where there is no GPU:
#
#   tools/gpu/compile-test.sh kernels     the kernels alone, with nvcc from PyPI (100 MB into build/cuda/nvcc)
#   tools/gpu/compile-test.sh [PYTHON]    all C++ parts, against a torch for CUDA
#
# PYTHON has that torch and the package nvidia-cuda-nvcc of its CUDA release; without it both are
# installed into build/cuda/torch (4 GB to download, 5 GB on disk). The libraries are then loaded
# there: the operators must be known, the kernels be inside, and the operators on boxes, which are
# libtorch's own on every device, give what they must on the CPU. Where nvcc cannot be had the kernels
# alone are not compiled, which is said.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=13.0 torch=2.11.0

venv() { # venv FOLDER PACKAGE…
	[ ! -e "$1/installed" ] || return 0
	python3 -m venv "$1" && "$1/bin/python" -m pip install --quiet --no-cache-dir "${@:2}" && touch "$1/installed"
}
nvcc=("nvidia-cuda-nvcc==$release.*" "nvidia-nvvm==$release.*" "nvidia-cuda-crt==$release.*" "nvidia-cuda-runtime==$release.*")

if [ "${1:-}" = kernels ]; then
	venv build/cuda/nvcc "${nvcc[@]}" || { echo "nvcc cannot be had: the kernels are not compiled"; exit 0; }
	home=$(echo build/cuda/nvcc/lib/python3.*/site-packages/nvidia/cu*)
	for source in plugins/*/native/*.cu; do
		object=build/cuda/$(basename "$(dirname "$(dirname "$source")")")-$(basename "$source")
		"$home/bin/nvcc" -std=c++17 -O3 -fmad=false -gencode=arch=compute_75,code=compute_75 -gencode=arch=compute_90,code=sm_90 -Xcompiler -fPIC -c "$source" -o "$object.o"
		g++ -shared -Wl,-z,defs -o "$object.so" "$object.o" "$home/lib/libcudart_static.a" -ldl -lrt -lpthread
		python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$PWD/$object.so"
		echo "$source: compiled, linked and loaded"
	done
	exit
fi

python=${1:-build/cuda/torch/bin/python}
[ -n "${1:-}" ] || venv build/cuda/torch numpy "torch==$torch" "${nvcc[@]}"
tree=build/cuda/tree
mkdir -p "$tree/build/shim" "$tree/plugins/a3d" "$tree/sdk/torchstage"
rm -rf "$tree/build/shim/src" "$tree/plugins/a3d/native" "$tree/sdk/torchstage/native"
cp -r build/shim/src "$tree/build/shim"
cp -r plugins/a3d/native "$tree/plugins/a3d"
cp -r sdk/torchstage/native "$tree/sdk/torchstage"
libtorch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')
build/fitgotch -root "$tree" -shim-only -kernels "$tree/plugins/a3d/native" -optional "$tree/sdk/torchstage/native" -libtorch "$libtorch"
"$python" - "$tree/build/lib/libalignedfusion_a3d.so" <<'END'
import ctypes, sys
import torch

path = sys.argv[1]
torch.ops.load_library(path)
assert ctypes.CDLL(path).af_a3d_cuda() == 1, "no CUDA kernels in " + path
ops = torch.ops.alignedfusion_a3d
boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]], dtype=torch.float)
assert ops.nms(boxes, 0.5, 3, False).tolist() == [[0, 2, -1]]
anchors = boxes[0]
assigned = ops.assign(anchors, torch.ones(3, dtype=torch.bool), anchors[2:], torch.zeros(0, 4), 0.7, 0.3, 0.3, False)
assert assigned.tolist() == [-1, -1, 0]
for name in "slice_mix", "dense_block", "propose", "roi_align", "encode", "nth", "tally":
    print(getattr(ops, name).default._schema)
END
