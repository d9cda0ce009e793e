// The detector's operators as a libtorch library. Their schemas are typed; what a schema
// cannot say (sizes, element types, memory) is checked here, before any loop runs.
#define AT_PER_OPERATOR_HEADERS // the headers for all operators take twice the time
#include "call_boxed.h"
#include "dense_block.h"
#include "detection.h"

#include <torch/library.h>

namespace {

// check_map wants a channels-first map [N*slices, C, H, W] without empty dimensions.
void check_map(const char *op, const Tensor &x, int64_t slices) {
  TORCH_CHECK(slices >= 1, op, ": slices is ", slices, ", want 1 or more");
  TORCH_CHECK(x.layout() == at::kStrided && at::isFloatingType(x.scalar_type()), op, ": x is ", x.toString(), ", want a dense floating-point map");
  TORCH_CHECK(x.dim() == 4 && x.numel() > 0 && x.size(0) % slices == 0, op, ": x is ", x.sizes(), ", want [N*", slices, ", C, H, W]");
}

// check_parameter wants float32 on x's device.
void check_parameter(const char *op, const char *name, const Tensor &t, const Tensor &x) {
  TORCH_CHECK(t.layout() == at::kStrided && t.scalar_type() == at::kFloat && t.device() == x.device(), op, ": ", name, " is ", t.toString(), " on ",
              t.device(), ", want float32 on ", x.device());
}

// check_weights wants slice-mixing weights [1 or N, D, D, C] (source, target, channel).
void check_weights(const char *op, const char *name, const Tensor &p, const Tensor &x, int64_t slices, int64_t channels) {
  check_parameter(op, name, p, x);
  TORCH_CHECK(p.dim() == 4 && (p.size(0) == 1 || p.size(0) == x.size(0) / slices) && p.size(1) == slices && p.size(2) == slices && p.size(3) == channels,
              op, ": ", name, " is ", p.sizes(), ", want [1 or ", x.size(0) / slices, ", ", slices, ", ", slices, ", ", channels, "]");
}

// check_norm wants the four vectors of a batch normalisation. The running ones are
// changed in place, so a copy made to have them contiguous would lose the change.
void check_norm(const char *op, const Tensor *t, const Tensor &x, int64_t channels) {
  static const char *const names[] = {"norm weight", "norm bias", "running mean", "running variance"};
  for (int i = 0; i < 4; i++) {
    check_parameter(op, names[i], t[i], x);
    TORCH_CHECK(t[i].dim() == 1 && t[i].size(0) == channels && t[i].is_contiguous(), op, ": ", names[i], " is ", t[i].sizes(), " with strides ",
                t[i].strides(), ", want [", channels, "], contiguous");
    TORCH_CHECK(i < 2 || !t[i].requires_grad(), op, ": ", names[i], " requires a gradient; it is a statistic, not a parameter");
  }
}

// check_convolution wants weights [out, in, k, k] with odd k; out 0 stands for any
// multiple of the loops' width.
void check_convolution(const char *op, const char *name, const Tensor &w, const Tensor &x, int64_t in, int64_t out) {
  check_parameter(op, name, w, x);
  TORCH_CHECK(w.dim() == 4 && w.numel() > 0 && w.size(1) == in && w.size(2) == w.size(3) && w.size(2) % 2 == 1 &&
                  (out ? w.size(0) == out : w.size(0) % kWidth == 0),
              op, ": ", name, " is ", w.sizes(), ", want [", out ? std::to_string(out) : "a multiple of " + std::to_string(kWidth), ", ", in,
              ", k, k] with odd k");
}

void check_block(const Tensor &x, at::TensorList layers, int64_t slices, int64_t growth) {
  const char *op = "dense_block";
  check_map(op, x, slices);
  TORCH_CHECK(fast(x, slices), op, ": x is ", x.toString(), " ", x.sizes(), " of ", slices, " slices: want float32 or bfloat16 on a GPU or a CPU with AVX2, channels in multiples of ",
              kWidth, ", and 1, 3, 5, 7 or 9 slices");
  TORCH_CHECK(growth >= 1 && growth % kWidth == 0, op, ": growth is ", growth, ", want a multiple of ", kWidth);
  TORCH_CHECK(!layers.empty() && layers.size() % kPerLayer == 0, op, ": ", layers.size(), " tensors of layers, want a multiple of ", int(kPerLayer));
  int64_t width = x.size(1);
  for (size_t i = 0; i < layers.size(); i += kPerLayer, width += growth) {
    const Tensor *t = &layers[i];
    check_norm(op, t + kW1Norm, x, width);
    check_weights(op, "mixing before the first convolution", t[kP1], x, slices, width);
    check_convolution(op, "first convolution", t[kConv1], x, width, 0);
    int64_t inner = t[kConv1].size(0);
    check_norm(op, t + kW2Norm, x, inner);
    check_weights(op, "mixing before the second convolution", t[kP2], x, slices, inner);
    check_convolution(op, "second convolution", t[kConv2], x, inner, growth);
  }
}

Tensor slice_mix(const Tensor &x, const Tensor &weights, int64_t slices) {
  check_map("slice_mix", x, slices);
  check_weights("slice_mix", "weights", weights, x, slices, x.size(1));
  if (!fast(x, slices)) return mix_general(x, weights, slices);
  return SliceMix::apply(channels_last(x), weights.contiguous(), slices);
}

Tensor dense_block(const Tensor &x, at::TensorList layers, int64_t slices, int64_t growth, bool train, bool lean) {
  check_block(x, layers, slices, growth);
  std::vector<Tensor> params(layers.begin(), layers.end());
  for (size_t i = 0; i < params.size(); i++) {
    if (i % kPerLayer == kP1 || i % kPerLayer == kP2) params[i] = params[i].contiguous();
  }
  if (!train) return infer_block(channels_last(x), params, slices, growth);
  return DenseBlock::apply(channels_last(x), at::TensorList(params), slices, growth, lean);
}

} // namespace

int af_a3d_cuda(void) { return kCUDA; }

// All are composite for libtorch's autograd: slice_mix and dense_block record their own
// gradient where one is wanted, the rest is made of libtorch's operators.
TORCH_LIBRARY(alignedfusion_a3d, m) {
  // y[n, k] = sum_d x[n, d] weights[n, d, k] per channel; differentiable in both.
  m.def("slice_mix(Tensor x, Tensor weights, int slices) -> Tensor", slice_mix);
  // layers holds per layer: norm (weight, bias, running mean, running variance), mixing
  // weights, convolution; and the same again. In training the batch's statistics are
  // used, the running ones are updated in place, and the result is differentiable; lean
  // computes the bottlenecks again in the backward pass instead of keeping them.
  m.def("dense_block(Tensor x, Tensor(a!)[] layers, int slices, int growth, bool train, bool lean) -> Tensor", dense_block);
  // What they give is said in detection.h. For a CPU package boxops does the same.
  m.def("assign(Tensor boxes, Tensor valid, Tensor lesions, Tensor ignore, float positive, float negative, float minimum, bool inclusive) -> Tensor", assign);
  m.def("tally(Tensor[] assigned) -> Tensor", tally);
  m.def("nth(Tensor assigned, Tensor numbers, int all, int base, bool lesions) -> Tensor", nth);
  m.def("encode(Tensor boxes, Tensor lesions, Tensor assigned, Tensor index, int base, bool inclusive) -> Tensor", encode);
  m.def("nms(Tensor boxes, float threshold, int limit, bool inclusive) -> Tensor", nms);
  m.def("propose(Tensor logits, Tensor deltas, Tensor anchors, int pre, int post, int height, int width, float threshold, bool inclusive) -> Tensor", propose);
  m.def("roi_align(Tensor features, Tensor regions, int size, int samples, int stride, bool legacy) -> Tensor", roi_align);
}
