// The kernels of kernels.cu and how they are called. They are there (ALIGNEDFUSION_CUDA) where nvcc was
// when this was built. Included once, by library.cpp.
#ifndef ALIGNEDFUSION_A3D_CUDA_H
#define ALIGNEDFUSION_A3D_CUDA_H
#include "kernels.h"

#include <ATen/core/Tensor.h>
#ifdef ALIGNEDFUSION_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace {

#ifdef ALIGNEDFUSION_CUDA
constexpr bool kCUDA = true;
#else
constexpr bool kCUDA = false;
#endif

// on_cuda gives f the stream of a tensor's device to put its work on.
template <typename F> void on_cuda(const at::Tensor &where, const char *op, F f) {
#ifdef ALIGNEDFUSION_CUDA
  c10::cuda::CUDAGuard guard(where.device());
  int code = f(static_cast<void *>(c10::cuda::getCurrentCUDAStream(where.device().index()).stream()));
  TORCH_CHECK(code == 0, op, ": ", a3d_cuda_error(code));
#else
  TORCH_CHECK(false, op, ": no kernel for ", where.device(), ": this library was built without nvcc");
#endif
}

} // namespace
#endif
