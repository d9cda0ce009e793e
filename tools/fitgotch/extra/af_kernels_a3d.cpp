// Slice mixing of the A3D operator on channels-last maps.
//
// A volume's slices lie side by side in the batch dimension: x is [N*D, C, H, W] in
// channels-last memory, possibly the first C channels of a wider buffer. With
// weights p [M, D, D, C] (source slice, target slice, channel; M is 1 or N)
//   y[n, k, c, h, w] = sum_d f(x[n, d, c, h, w]) p[m, d, k, c].
#include "af_native.h"
#include <ATen/Parallel.h>

#include <algorithm>

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma")
namespace wide {
#include "af_slice_mix.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace medium {
#include "af_slice_mix.h"
}
#pragma GCC pop_options
#endif
namespace plain {
#include "af_slice_mix.h"
}

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTile = 64; // pixels; 7 slices of 64 channels are then about a level-2 cache's half

using MixTile = void (*)(const float *, int64_t, int64_t, float *, int64_t, int64_t, const float *, const float *,
                         const float *, int64_t, int64_t);
using MixGradTile = void (*)(const float *, int64_t, int64_t, const float *, int64_t, int64_t, float *, int64_t, int64_t);

enum Isa { kPlain, kMedium, kWide };

Isa isa() {
#if defined(__x86_64__)
  static const Isa best = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") ? kWide
                          : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")          ? kMedium
                                                                                                     : kPlain;
  return best;
#else
  return kPlain;
#endif
}

#if defined(__x86_64__)
#define AF_PICK(...) (isa() == kWide ? wide::__VA_ARGS__ : isa() == kMedium ? medium::__VA_ARGS__ : plain::__VA_ARGS__)
#else
#define AF_PICK(...) (plain::__VA_ARGS__)
#endif

template <bool kAffine> MixTile mix_tile(int64_t slices) {
  switch (slices) {
  case 1: return AF_PICK(mix_tile<1, kAffine>);
  case 2: return AF_PICK(mix_tile<2, kAffine>);
  case 3: return AF_PICK(mix_tile<3, kAffine>);
  case 4: return AF_PICK(mix_tile<4, kAffine>);
  case 5: return AF_PICK(mix_tile<5, kAffine>);
  case 6: return AF_PICK(mix_tile<6, kAffine>);
  case 7: return AF_PICK(mix_tile<7, kAffine>);
  case 8: return AF_PICK(mix_tile<8, kAffine>);
  case 9: return AF_PICK(mix_tile<9, kAffine>);
  }
  return nullptr;
}

MixGradTile mix_grad_tile(int64_t slices) {
  switch (slices) {
  case 1: return AF_PICK(mix_grad_tile<1>);
  case 2: return AF_PICK(mix_grad_tile<2>);
  case 3: return AF_PICK(mix_grad_tile<3>);
  case 4: return AF_PICK(mix_grad_tile<4>);
  case 5: return AF_PICK(mix_grad_tile<5>);
  case 6: return AF_PICK(mix_grad_tile<6>);
  case 7: return AF_PICK(mix_grad_tile<7>);
  case 8: return AF_PICK(mix_grad_tile<8>);
  case 9: return AF_PICK(mix_grad_tile<9>);
  }
  return nullptr;
}

// pixels_last reports channels-last memory: channels side by side, rows without gaps.
bool pixels_last(const Tensor &x) {
  return x.dim() == 4 && (x.stride(1) == 1 || x.size(1) == 1) && (x.size(2) == 1 || x.stride(2) == x.size(3) * x.stride(3)) &&
         (x.size(0) == 1 || x.stride(0) == x.size(2) * x.stride(2));
}

bool fast(const Tensor &x, int64_t slices) {
  return x.device().is_cpu() && x.scalar_type() == torch::kFloat && slices <= 9 && pixels_last(x);
}

Tensor channels_last(const Tensor &x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

// Channels-last strides are ambiguous for maps of one pixel or one channel; these
// are the ones the loops use.
Tensor empty_map(const Tensor &like) {
  auto n = like.size(0), c = like.size(1), h = like.size(2), w = like.size(3);
  return torch::empty({n, h, w, c}, like.options()).permute({0, 3, 1, 2});
}

Tensor mix_loops(const Tensor &x, const Tensor &p, const Tensor &scale, const Tensor &shift, int64_t slices) {
  auto volumes = x.size(0) / slices, channels = x.size(1), pixels = x.size(2) * x.size(3);
  Tensor y = empty_map(x);
  auto tile = scale.defined() ? mix_tile<true>(slices) : mix_tile<false>(slices);
  const float *xs = x.data_ptr<float>(), *ps = p.data_ptr<float>();
  const float *a = scale.defined() ? scale.data_ptr<float>() : nullptr, *b = scale.defined() ? shift.data_ptr<float>() : nullptr;
  float *ys = y.data_ptr<float>();
  int64_t x_pixel = x.stride(3), x_slice = pixels * x_pixel, y_pixel = channels, y_slice = pixels * channels;
  int64_t p_volume = p.size(0) == 1 ? 0 : p.stride(0), tiles = (pixels + kTile - 1) / kTile;
  at::parallel_for(0, volumes * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      int64_t n = t / tiles, first = t % tiles * kTile;
      tile(xs + n * slices * x_slice + first * x_pixel, x_slice, x_pixel, ys + n * slices * y_slice + first * y_pixel, y_slice,
           y_pixel, ps + n * p_volume, a, b, std::min(kTile, pixels - first), channels);
    }
  });
  return y;
}

// mix_grad_loops returns d l / d p. The sum's order depends on the number of threads only.
Tensor mix_grad_loops(const Tensor &x, const Tensor &dy, int64_t slices, int64_t copies) {
  auto volumes = x.size(0) / slices, channels = x.size(1), pixels = x.size(2) * x.size(3);
  auto tile = mix_grad_tile(slices);
  const float *xs = x.data_ptr<float>(), *gs = dy.data_ptr<float>();
  int64_t x_pixel = x.stride(3), x_slice = pixels * x_pixel, y_pixel = dy.stride(3), y_slice = pixels * y_pixel;
  int64_t tiles = (pixels + kTile - 1) / kTile, threads = std::min<int64_t>(at::get_num_threads(), tiles);
  Tensor parts = torch::zeros({threads, copies, slices, slices, channels}, x.options());
  float *out = parts.data_ptr<float>();
  int64_t part = copies * slices * slices * channels;
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; thread++) {
      for (int64_t n = 0; n < volumes; n++) {
        float *dp = out + thread * part + (copies == 1 ? 0 : n) * slices * slices * channels;
        for (int64_t t = tiles * thread / threads; t < tiles * (thread + 1) / threads; t++) {
          int64_t first = t * kTile;
          tile(xs + n * slices * x_slice + first * x_pixel, x_slice, x_pixel, gs + n * slices * y_slice + first * y_pixel,
               y_slice, y_pixel, dp, std::min(kTile, pixels - first), channels);
        }
      }
    }
  });
  return parts.sum(0);
}

// The general form, for other devices, dtypes and slice counts; differentiable.
Tensor mix_general(const Tensor &x, const Tensor &p, int64_t slices) {
  auto n = x.size(0) / slices, c = x.size(1), h = x.size(2), w = x.size(3);
  Tensor rows = x.permute({0, 2, 3, 1}).reshape({n, slices, h * w, c});
  Tensor weights = p.size(0) == 1 ? p.expand({n, slices, slices, c}) : p;
  Tensor y = torch::einsum("ndqc,ndkc->nkqc", {rows, weights.to(x.scalar_type())});
  return y.reshape({n * slices, h, w, c}).permute({0, 3, 1, 2});
}

struct SliceMix : torch::autograd::Function<SliceMix> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &p, int64_t slices) {
    ctx->save_for_backward({x, p});
    ctx->saved_data["slices"] = slices;
    return mix_loops(x, p, Tensor(), Tensor(), slices);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto slices = ctx->saved_data["slices"].toInt();
    Tensor dy = pixels_last(grads[0]) ? grads[0] : channels_last(grads[0]);
    Tensor dx, dp;
    if (ctx->needs_input_grad(0)) dx = mix_loops(dy, saved[1].transpose(1, 2).contiguous(), Tensor(), Tensor(), slices);
    if (ctx->needs_input_grad(1)) dp = mix_grad_loops(saved[0], dy, slices, saved[1].size(0));
    return {dx, dp, Tensor()};
  }
};

void check(const Tensor &x, const Tensor &p, int64_t slices) {
  TORCH_CHECK(slices >= 1 && x.dim() == 4 && x.size(0) % slices == 0, "slice mixing of ", slices, " slices: x is ", x.sizes(),
              ", want [N*", slices, ", C, H, W]");
  TORCH_CHECK(p.dim() == 4 && p.size(1) == slices && p.size(2) == slices && p.size(3) == x.size(1) &&
                  (p.size(0) == 1 || p.size(0) * slices == x.size(0)),
              "slice mixing: weights are ", p.sizes(), ", want [1 or N, ", slices, ", ", slices, ", ", x.size(1), "]");
}

// slice_mix: x, p; slices. Differentiable in both.
std::vector<Tensor> slice_mix(const AfCall &call) {
  Tensor x = call.tensor(0), p = call.tensor(1);
  int64_t slices = call.integer(0);
  check(x, p, slices);
  if (!x.device().is_cpu() || x.scalar_type() != torch::kFloat || slices > 9) return {mix_general(x, p, slices)};
  if (!fast(x, slices)) x = channels_last(x);
  if (!pixels_last(x)) return {mix_general(x, p, slices)};
  return {SliceMix::apply(x, p.contiguous(), slices)};
}

// affine_relu_mix: x, p, scale [C], shift [C]; slices. Mixes relu(x*scale + shift).
// Not differentiable: for inference.
std::vector<Tensor> affine_relu_mix(const AfCall &call) {
  const Tensor &x = call.tensor(0), &p = call.tensor(1), &scale = call.tensor(2), &shift = call.tensor(3);
  int64_t slices = call.integer(0);
  check(x, p, slices);
  torch::NoGradGuard guard;
  if (!fast(x, slices)) {
    Tensor z = torch::relu(x * scale.view({1, -1, 1, 1}).to(x.scalar_type()) + shift.view({1, -1, 1, 1}).to(x.scalar_type()));
    return {mix_general(z, p, slices)};
  }
  return {mix_loops(x, p.contiguous(), scale.contiguous(), shift.contiguous(), slices)};
}

const bool registered = af_register("slice_mix", slice_mix) && af_register("affine_relu_mix", affine_relu_mix);

} // namespace
