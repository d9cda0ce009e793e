#include "af_extra.h"
#include "torch_api.h"
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/version.h>

#include <cstdlib>

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

static void autocast(bool enabled, bool cuda, at::ScalarType to) {
  if (!enabled) at::autocast::clear_cache();
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4
  auto device = cuda ? at::kCUDA : at::kCPU;
  at::autocast::set_autocast_dtype(device, to);
  at::autocast::set_autocast_enabled(device, enabled);
#else
  if (cuda) {
    at::autocast::set_autocast_gpu_dtype(to);
    at::autocast::set_enabled(enabled);
  } else {
    at::autocast::set_autocast_cpu_dtype(to);
    at::autocast::set_cpu_enabled(enabled);
  }
#endif
}

void af_autocast_set_enabled(int enabled, int cuda, int half) {
  PROTECT(autocast(enabled != 0, cuda != 0, half ? at::kHalf : at::kBFloat16);)
}

void af_arithmetic_set(int tf32, int benchmark, int deterministic) {
  PROTECT(
      auto &all = at::globalContext();
      all.setAllowTF32CuBLAS(tf32 != 0);
      all.setAllowTF32CuDNN(tf32 != 0);
      all.setBenchmarkCuDNN(benchmark != 0);
      all.setDeterministicCuDNN(deterministic != 0);
      all.setDeterministicAlgorithms(deterministic != 0, false);
      // cuBLAS reads it when it starts, and is refused by libtorch without.
      if (deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);)
}

int af_arithmetic() {
  PROTECT(
      auto &all = at::globalContext();
      return (all.allowTF32CuBLAS() && all.allowTF32CuDNN() ? 1 : 0) | (all.benchmarkCuDNN() ? 2 : 0) |
             (all.deterministicCuDNN() && all.deterministicAlgorithms() ? 4 : 0);)
  return 0;
}

static std::vector<at::Tensor> foreach(const std::string &op, const std::vector<at::Tensor> &a, const std::vector<at::Tensor> &b, double v) {
  if (op == "zero_") at::_foreach_zero_(a);
  else if (op == "mul_") at::_foreach_mul_(a, v);
  else if (op == "add_") at::_foreach_add_(a, b);
  else if (op == "mul") return b.empty() ? at::_foreach_mul(a, v) : at::_foreach_mul(a, b);
  else if (op == "add") return b.empty() ? at::_foreach_add(a, v) : at::_foreach_add(a, b);
  else if (op == "div") return at::_foreach_div(a, b);
  else if (op == "sqrt") return at::_foreach_sqrt(a);
  else if (op == "norm") return at::_foreach_norm(a, 2);
  else throw std::invalid_argument("no operator " + op);
  return {};
}

void af_foreach(const char *op, const af_tensor *a, const af_tensor *b, size_t n, double v, af_tensor *out) {
  PROTECT(
      std::vector<at::Tensor> left; std::vector<at::Tensor> right;
      for (size_t i = 0; i < n; i++) {
        left.push_back(*static_cast<torch::Tensor *>(a[i]));
        if (b) right.push_back(*static_cast<torch::Tensor *>(b[i]));
      } auto results = foreach(op, left, right, v);
      for (size_t i = 0; i < results.size(); i++) out[i] = new torch::Tensor(results[i]);)
}

void af_backward(const af_tensor *outputs, const af_tensor *gradients, size_t n, int keep_graph) {
  PROTECT(
      std::vector<torch::Tensor> roots; std::vector<torch::Tensor> incoming;
      for (size_t i = 0; i < n; i++) {
        roots.push_back(*static_cast<torch::Tensor *>(outputs[i]));
        incoming.push_back(gradients[i] ? *static_cast<torch::Tensor *>(gradients[i]) : torch::Tensor());
      } torch::autograd::backward(roots, incoming, keep_graph != 0);)
}
