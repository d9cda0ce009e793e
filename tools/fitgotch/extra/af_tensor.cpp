#include "af_extra.h"
#include "torch_api.h"
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/version.h>

af_tensor af_tensor_of_blob(void *data, const int64_t *dims, size_t ndims, int scalar_type) {
  PROTECT(
      auto options = at::TensorOptions().device(at::kCPU).dtype(torch::ScalarType(scalar_type));
      return new torch::Tensor(torch::from_blob(data, torch::IntArrayRef(dims, ndims), options));)
  return nullptr;
}

void af_set_num_threads(int threads) { PROTECT(at::set_num_threads(threads);) }

void af_set_num_interop_threads(int threads) { PROTECT(at::set_num_interop_threads(threads);) }

void af_manual_seed(int64_t seed) { PROTECT(torch::manual_seed(static_cast<uint64_t>(seed));) }

int af_grad_set_enabled(int enabled) {
  PROTECT(bool previous = torch::autograd::GradMode::is_enabled();
          torch::autograd::GradMode::set_enabled(enabled != 0);
          return previous ? 1 : 0;)
  return 0;
}

static void autocast(bool enabled, bool cuda) {
  if (!enabled) at::autocast::clear_cache();
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4
  auto device = cuda ? at::kCUDA : at::kCPU;
  at::autocast::set_autocast_dtype(device, at::kBFloat16);
  at::autocast::set_autocast_enabled(device, enabled);
#else
  if (cuda) {
    at::autocast::set_autocast_gpu_dtype(at::kBFloat16);
    at::autocast::set_enabled(enabled);
  } else {
    at::autocast::set_autocast_cpu_dtype(at::kBFloat16);
    at::autocast::set_cpu_enabled(enabled);
  }
#endif
}

void af_autocast_set_enabled(int enabled, int cuda) { PROTECT(autocast(enabled != 0, cuda != 0);) }

void af_backward(const af_tensor *outputs, const af_tensor *gradients, size_t n, int keep_graph) {
  PROTECT(
      std::vector<torch::Tensor> roots; std::vector<torch::Tensor> incoming;
      for (size_t i = 0; i < n; i++) {
        roots.push_back(*static_cast<torch::Tensor *>(outputs[i]));
        incoming.push_back(gradients[i] ? *static_cast<torch::Tensor *>(gradients[i]) : torch::Tensor());
      } torch::autograd::backward(roots, incoming, keep_graph != 0);)
}
