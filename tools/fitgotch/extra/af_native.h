// Registry of own kernels, called by name through af_native.
#ifndef AF_NATIVE_H
#define AF_NATIVE_H
#include <torch/torch.h>

#include <string>
#include <vector>

struct AfCall {
  std::vector<torch::Tensor> tensors; // undefined where absent
  std::vector<int64_t> ints;
  std::vector<double> floats;

  const torch::Tensor &tensor(size_t i) const {
    TORCH_CHECK(i < tensors.size(), "tensor ", i, " is missing");
    return tensors[i];
  }
  int64_t integer(size_t i) const {
    TORCH_CHECK(i < ints.size(), "whole number ", i, " is missing");
    return ints[i];
  }
};

using AfKernel = std::vector<torch::Tensor> (*)(const AfCall &);

// af_register names a kernel; make one static bool of it per kernel.
bool af_register(const char *name, AfKernel kernel);

#endif
