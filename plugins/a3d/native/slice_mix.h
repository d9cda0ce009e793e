// Slice mixing of the A3D operator on channels-last maps. Included once, by library.cpp.
//
// A volume's slices lie side by side in the batch dimension: x is [N*D, C, H, W] in
// channels-last memory, possibly the first C channels of a wider buffer. With
// weights p [M, D, D, C] (source slice, target slice, channel; M is 1 or N)
//   y[n, k, c, h, w] = sum_d f(x[n, d, c, h, w]) p[m, d, k, c].
#ifndef ALIGNEDFUSION_A3D_SLICE_MIX_H
#define ALIGNEDFUSION_A3D_SLICE_MIX_H
#include "cuda.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/var_mean.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Way is how the loops run: by this processor's vectors, channel by channel as a GPU's threads
// do, on a GPU, or as libtorch's operators on a device without kernels.
enum Way { kVectors, kChannelwise, kKernels, kOperators };

Way way(const Tensor &x) {
  if (x.is_cuda() && kCUDA) return kKernels;
  if (!x.is_cpu()) return kOperators;
  const char *set = std::getenv("ALIGNEDFUSION_A3D_LOOPS"); // tests do it on the CPU
  if (!set) return kVectors;
  return !std::strcmp(set, "channels") ? kChannelwise : !std::strcmp(set, "operators") ? kOperators : kVectors;
}

// best_loops are those for this processor's vectors; null without any.
const Loops *best_loops() {
#if defined(__x86_64__)
  static const Loops *const best = [] {
    bool fma = __builtin_cpu_supports("fma");
    if (fma && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) return &avx512_loops;
    return fma && __builtin_cpu_supports("avx2") ? &avx2_loops : nullptr;
  }();
  return best;
#else
  return &plain_loops;
#endif
}

template <typename T> const LoopsFor<T> &loops_for(Way how) {
  const Loops *loops = how == kChannelwise ? &channel_loops : best_loops();
  if constexpr (std::is_same<T, float>::value) {
    return loops->single;
  } else {
    return loops->brain;
  }
}

// pixels_last reports channels side by side and rows without gaps.
bool pixels_last(const Tensor &x) {
  return x.dim() == 4 && (x.stride(1) == 1 || x.size(1) == 1) && (x.size(2) == 1 || x.stride(2) == x.size(3) * x.stride(3)) &&
         (x.size(0) == 1 || x.stride(0) == x.size(2) * x.size(3) * x.stride(3)) && (x.size(3) == 1 || x.stride(3) >= x.size(1));
}

// fast reports whether the loops can run on maps of this kind.
bool fast(const Tensor &x, int64_t slices) {
  return (!x.is_cpu() || best_loops()) && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && compiled_for(slices) &&
         x.size(1) % kWidth == 0;
}

Tensor empty_map(const Tensor &like, int64_t channels) {
  return at::empty({like.size(0), like.size(2), like.size(3), channels}, like.options()).permute({0, 3, 1, 2});
}

Tensor channels_last(const Tensor &x) {
  if (pixels_last(x)) return x;
  return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}

// with_type calls f with a value of the element type the loops use for t.
template <typename F> auto with_type(const Tensor &t, F f) {
  return t.scalar_type() == at::kBFloat16 ? f(BFloat{}) : f(float{});
}

// Map is a channels-last tensor as the loops see it: rows of channels.
template <typename T> struct Map {
  T *data;
  int64_t rows, channels, stride;
  explicit Map(const Tensor &t)
      : data(static_cast<T *>(t.data_ptr())), rows(t.size(0) * t.size(2) * t.size(3)), channels(t.size(1)),
        stride(rows == 1 ? t.size(1) : t.size(3) > 1 ? t.stride(3) : t.size(2) > 1 ? t.stride(2) : t.stride(0)) {}
};

// Norm is a batch normalisation written as scale and shift.
struct Norm {
  Tensor scale, shift, mean, invstd;
};

// by_slice is a map as [N, D, H, W, C], and of_channels a vector or weights [M, C] beside one slice of it.
Tensor by_slice(const Tensor &x, int64_t slices) {
  return x.permute({0, 2, 3, 1}).view({x.size(0) / slices, slices, x.size(2), x.size(3), x.size(1)});
}
Tensor of_channels(const Tensor &p) { return p.view({-1, 1, 1, p.size(-1)}); }

// mix_operators is mix_loops by libtorch's operators: products of whole slices, neither copies
// of the map nor many thin matrices.
Tensor mix_operators(const Tensor &x, const Tensor &p, const Norm *norm, int64_t slices) {
  Tensor in = by_slice(x, slices).to(at::kFloat), y = empty_map(x, x.size(1)), out = by_slice(y, slices);
  if (norm) in = at::addcmul(norm->shift, in, norm->scale).relu_();
  for (int64_t k = 0; k < slices; k++) {
    Tensor sum = in.select(1, 0) * of_channels(p.select(1, 0).select(1, k));
    for (int64_t d = 1; d < slices; d++) sum.addcmul_(in.select(1, d), of_channels(p.select(1, d).select(1, k)));
    out.select(1, k).copy_(sum);
  }
  return y;
}

template <typename T> Tensor mix_loops_of(const Tensor &x, const Tensor &p, const Norm *norm, int64_t slices, Way how) {
  Tensor y = empty_map(x, x.size(1));
  Map<T> in(x), out(y);
  MixJob<T> job{};
  job.x = in.data, job.x_stride = in.stride, job.y = out.data, job.y_stride = out.stride;
  job.p = p.data_ptr<float>(), job.p_volume = p.size(0) == 1 ? 0 : p.stride(0);
  if (norm) job.scale = norm->scale.data_ptr<float>(), job.shift = norm->shift.data_ptr<float>();
  job.volumes = x.size(0) / slices, job.slices = slices, job.pixels = x.size(2) * x.size(3), job.channels = x.size(1);
  job.tile = how == kKernels ? kThreadTile : kTile;
  if (how == kKernels) {
    on_cuda(x, "slice mixing", [&](void *stream) { return CUDALoops<T>::mix(job, norm, stream); });
    return y;
  }
  auto loop = loops_for<T>(how).mix[slices / 2][norm != nullptr];
  at::parallel_for(0, job.tiles(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) loop(job.at(t));
  });
  return y;
}

Tensor mix_loops(const Tensor &x, const Tensor &p, const Norm *norm, int64_t slices) {
  Way how = way(x);
  if (how == kOperators) return mix_operators(x, p, norm, slices);
  return with_type(x, [&](auto type) { return mix_loops_of<decltype(type)>(x, p, norm, slices, how); });
}

struct MixGrad {
  Tensor dp, s1, s2; // undefined where not asked for
};

// mix_grad_operators is mix_grad_loops by libtorch's operators.
MixGrad mix_grad_operators(const Tensor &x, const Tensor &p, const Norm *norm, const Tensor &gy, const Tensor &gx, bool accumulate, bool weights,
                           int64_t slices) {
  Tensor in = by_slice(x, slices).to(at::kFloat), g = by_slice(gy, slices).to(at::kFloat), gz = at::empty_like(in);
  for (int64_t d = 0; d < slices; d++) {
    Tensor sum = gz.select(1, d);
    sum.copy_(g.select(1, 0) * of_channels(p.select(1, d).select(1, 0)));
    for (int64_t k = 1; k < slices; k++) sum.addcmul_(g.select(1, k), of_channels(p.select(1, d).select(1, k)));
  }
  MixGrad result;
  Tensor z = in;
  if (norm) {
    z = at::addcmul(norm->shift, in, norm->scale);
    gz.masked_fill_((z > 0).logical_not(), 0);
    z.relu_();
    result.s1 = gz.sum(at::IntArrayRef{0, 1, 2, 3});
    result.s2 = (gz * ((in - norm->mean) * norm->invstd)).sum(at::IntArrayRef{0, 1, 2, 3});
  }
  if (weights) {
    result.dp = at::empty_like(p);
    for (int64_t k = 0; k < slices; k++) {
      Tensor sums = (z * g.select(1, k).unsqueeze(1)).sum(at::IntArrayRef{2, 3}); // [N, D, C]
      result.dp.select(2, k).copy_(p.size(0) == 1 ? sums.sum(0, true) : sums);
    }
  }
  Tensor out = by_slice(gx, slices);
  if (accumulate) {
    out.addcmul_(gz, norm->scale);
  } else {
    out.copy_(gz);
  }
  return result;
}

// mix_grad_loops writes d l / d x to gx, which may be gy itself, or, with a norm and
// accumulate, adds it to gx, which is float then. Sums are taken per worker (a thread of the
// CPU) and then in order: they depend on the number of workers only.
template <typename T>
MixGrad mix_grad_loops_of(const Tensor &x, const Tensor &p, const Norm *norm, const Tensor &gy, const Tensor &gx, bool accumulate,
                          bool weights, int64_t slices, Way how) {
  Map<T> in(x), g(gy), out(gx);
  MixGradJob<T> job{};
  job.volumes = x.size(0) / slices, job.slices = slices, job.pixels = x.size(2) * x.size(3), job.channels = x.size(1);
  job.copies = p.size(0), job.tile = how == kKernels ? kThreadTile : kTile;
  int64_t tiles = job.volumes * job.per_volume(), matrix = slices * slices * job.channels;
  job.workers = std::max<int64_t>(1, std::min<int64_t>(how == kKernels ? kThreads / job.channels : at::get_num_threads(), tiles));
  Tensor dp = at::zeros({job.workers, weights ? job.copies * matrix : 0}, p.options());
  Tensor sums = at::zeros({job.workers, 2, norm ? job.channels : 0}, p.options());
  job.x = in.data, job.x_stride = in.stride, job.gy = g.data, job.y_stride = g.stride, job.gx_stride = out.stride;
  if (accumulate) {
    job.sum = static_cast<float *>(gx.data_ptr());
  } else {
    job.gx = out.data;
  }
  job.p = p.data_ptr<float>();
  if (norm) {
    job.scale = norm->scale.data_ptr<float>(), job.shift = norm->shift.data_ptr<float>();
    job.mean = norm->mean.data_ptr<float>(), job.invstd = norm->invstd.data_ptr<float>();
  }
  job.dp = weights ? dp.data_ptr<float>() : nullptr, job.sums = sums.data_ptr<float>();
  GradKind kind = !norm ? kPlainGrad : accumulate ? kAccumulatingGrad : kAffineGrad;
  if (how == kKernels) {
    on_cuda(x, "slice mixing, backward", [&](void *stream) { return CUDALoops<T>::mix_grad(job, kind, stream); });
  } else {
    auto loop = loops_for<T>(how).mix_grad[slices / 2][kind];
    at::parallel_for(0, job.workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; worker++) {
        for (int64_t t = job.first(worker); t < job.first(worker + 1); t++) loop(job.at(worker, t));
      }
    });
  }
  MixGrad result;
  if (weights) result.dp = dp.sum(0).view_as(p);
  if (norm) {
    Tensor total = sums.sum(0);
    result.s1 = total[0], result.s2 = total[1];
  }
  return result;
}

MixGrad mix_grad_loops(const Tensor &x, const Tensor &p, const Norm *norm, const Tensor &gy, const Tensor &gx, bool accumulate,
                       bool weights, int64_t slices) {
  Way how = way(x);
  if (how == kOperators) return mix_grad_operators(x, p, norm, gy, gx, accumulate, weights, slices);
  return with_type(x, [&](auto type) { return mix_grad_loops_of<decltype(type)>(x, p, norm, gy, gx, accumulate, weights, slices, how); });
}

// The general form, for other devices, dtypes and slice counts; differentiable.
Tensor mix_general(const Tensor &x, const Tensor &p, int64_t slices) {
  auto n = x.size(0) / slices, c = x.size(1), h = x.size(2), w = x.size(3);
  Tensor rows = x.permute({0, 2, 3, 1}).reshape({n, slices, h * w, c});
  Tensor weights = (p.size(0) == 1 ? p.expand({n, slices, slices, c}) : p).to(x.scalar_type());
  Tensor y = at::einsum("ndqc,ndkc->nkqc", {rows, weights});
  return y.reshape({n * slices, h, w, c}).permute({0, 3, 1, 2});
}

struct SliceMix : torch::autograd::Function<SliceMix> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &p, int64_t slices) {
    ctx->save_for_backward({x, p});
    ctx->saved_data["slices"] = slices;
    return mix_loops(x, p, nullptr, slices);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor gx = empty_map(saved[0], saved[0].size(1));
    bool weights = ctx->needs_input_grad(1);
    auto sums = mix_grad_loops(saved[0], saved[1], nullptr, channels_last(grads[0]), gx, false, weights, ctx->saved_data["slices"].toInt());
    return {gx, sums.dp, Tensor()};
  }
};

} // namespace

#endif
