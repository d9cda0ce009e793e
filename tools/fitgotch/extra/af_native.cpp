#include "af_native.h"
#include "af_extra.h"
#include "torch_api.h"

#include <map>

static std::map<std::string, AfKernel> &kernels() {
  static std::map<std::string, AfKernel> all;
  return all;
}

bool af_register(const char *name, AfKernel kernel) { return kernels().emplace(name, kernel).second; }

int af_native(const char *name, const af_tensor *in, size_t nin, const int64_t *ints, size_t nints,
              const double *floats, size_t nfloats, af_tensor *out, size_t max_out) {
  PROTECT(
      auto found = kernels().find(name);
      TORCH_CHECK(found != kernels().end(), "no kernel ", name, " in this libtch.so");
      AfCall call;
      for (size_t i = 0; i < nin; i++) {
        call.tensors.push_back(in[i] ? *static_cast<torch::Tensor *>(in[i]) : torch::Tensor());
      }
      call.ints.assign(ints, ints + nints);
      call.floats.assign(floats, floats + nfloats);
      auto results = found->second(call);
      TORCH_CHECK(results.size() <= max_out, "kernel ", name, " has too many results");
      for (size_t i = 0; i < results.size(); i++) { out[i] = new torch::Tensor(results[i]); }
      return static_cast<int>(results.size());)
  return -1;
}
