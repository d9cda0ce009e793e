// The detector's operators on boxes, on whatever device their tensors are: which anchor has
// which lesion, proposals, regions of feature maps. What they give is what package boxops
// gives, operation by operation in single precision. Included once, by library.cpp.
#ifndef ALIGNEDFUSION_A3D_DETECTION_H
#define ALIGNEDFUSION_A3D_DETECTION_H
#include "cuda.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding_bag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>

namespace {

using at::Tensor;

// As boxops.Background and boxops.Ignored.
enum Assignment : int64_t { kBackground = -1, kIgnored = -2 };

// check wants a dense tensor of a type on like's device, its sizes those given, -1 being any.
void check(const char *op, const char *name, const Tensor &t, const Tensor &like, at::ScalarType type, at::IntArrayRef sizes) {
  bool fits = t.layout() == at::kStrided && t.scalar_type() == type && t.device() == like.device() && t.dim() == static_cast<int64_t>(sizes.size());
  for (size_t i = 0; fits && i < sizes.size(); i++) fits = sizes[i] == -1 || t.size(i) == sizes[i];
  TORCH_CHECK(fits, op, ": ", name, " is ", t.toString(), " ", t.sizes(), " on ", t.device(), ", want ", type, " ", sizes, " on ", like.device());
}

struct Corners {
  Tensor x1, y1, x2, y2;
  explicit Corners(const Tensor &boxes) : x1(boxes.select(-1, 0)), y1(boxes.select(-1, 1)), x2(boxes.select(-1, 2)), y2(boxes.select(-1, 3)) {}
};

Tensor extent(const Tensor &w, const Tensor &h) { return (w * h).masked_fill((w > 0).logical_and(h > 0).logical_not(), 0); }

Tensor area(const Corners &b, double one) { return extent(b.x2 - b.x1 + one, b.y2 - b.y1 + one); }

Tensor intersection(const Corners &a, const Corners &b, double one) {
  return extent(at::minimum(a.x2, b.x2) - at::maximum(a.x1, b.x1) + one, at::minimum(a.y2, b.y2) - at::maximum(a.y1, b.y1) + one);
}

// assign is boxops.Matcher.Assign: for every box the number of its lesion, or an Assignment.
Tensor assign(const Tensor &boxes, const Tensor &valid, const Tensor &lesions, const Tensor &ignore, double positive, double negative, double minimum,
              bool inclusive) {
  check("assign", "boxes", boxes, boxes, at::kFloat, {-1, 4});
  check("assign", "valid", valid, boxes, at::kBool, {boxes.size(0)});
  check("assign", "lesions", lesions, boxes, at::kFloat, {-1, 4});
  check("assign", "ignore", ignore, boxes, at::kFloat, {-1, 4});
  at::NoGradGuard guard;
  double one = inclusive;
  int64_t count = lesions.size(0);
  Corners b(boxes.unsqueeze(0)), l(lesions.unsqueeze(1));
  Tensor none = valid.logical_not(), own = area(b, one), out;
  if (count > 0) {
    Tensor both = intersection(b, l, one); // [lesions, boxes]
    Tensor iou = (both / (own + area(l, one) - both)).masked_fill((both == 0).logical_or(none), 0);
    auto [best, which] = iou.max(0);
    Tensor lesion = (best > 0).logical_and(best >= positive);
    out = at::where(lesion, which, at::full_like(which, kIgnored).masked_fill(best < negative, kBackground));
    // Every lesion also takes the boxes that share its highest overlap, the last lesion first.
    Tensor top = iou.amax(1, true);
    Tensor shared = (iou == top).logical_and(top > 0).logical_and(top >= minimum);
    Tensor taken = at::where(shared, at::arange(count, which.options()).unsqueeze(1), at::full({1, 1}, kBackground, which.options())).amax(0);
    out = at::where(taken >= 0, taken, out);
  } else {
    out = at::full({boxes.size(0)}, negative > 0 ? kBackground : kIgnored, boxes.options().dtype(at::kLong));
  }
  out.masked_fill_(none, kIgnored);
  if (ignore.size(0) > 0) {
    Corners r(ignore.unsqueeze(1));
    Tensor both = intersection(b, r, one);
    Tensor hit = (both > 0).logical_and(both > at::minimum(own, area(r, one)) * 0.5).any(0);
    out.masked_fill_(hit.logical_and(out == kBackground), kIgnored);
  }
  return out;
}

// tally counts the boxes with a lesion and the backgrounds of every image: [N, 2].
Tensor tally(at::TensorList assigned) {
  std::vector<Tensor> counts;
  for (const auto &a : assigned) counts.push_back(at::stack({(a >= 0).sum(), (a == kBackground).sum()}));
  return at::stack(counts);
}

// nth gives the places, from base on, of the boxes with a lesion (or of the backgrounds) by
// their numbers among these; with all, of the first so many.
Tensor nth(const Tensor &assigned, const Tensor &numbers, int64_t all, int64_t base, bool lesions) {
  check("nth", "assigned", assigned, assigned, at::kLong, {-1});
  check("nth", "numbers", numbers, assigned, at::kLong, {-1});
  Tensor is = lesions ? assigned >= 0 : assigned == kBackground;
  Tensor wanted = all > 0 ? at::arange(1, all + 1, assigned.options()) : numbers + 1;
  return at::searchsorted(is.cumsum(0), wanted) + base;
}

// encode is boxops.Coder.Encode of the boxes at places index, from base on, and of their lesions: [M, 4].
Tensor encode(const Tensor &boxes, const Tensor &lesions, const Tensor &assigned, const Tensor &given, int64_t base, bool inclusive) {
  check("encode", "boxes", boxes, boxes, at::kFloat, {-1, 4});
  check("encode", "lesions", lesions, boxes, at::kFloat, {-1, 4});
  check("encode", "assigned", assigned, boxes, at::kLong, {boxes.size(0)});
  check("encode", "index", given, boxes, at::kLong, {-1});
  Tensor index = given - base;
  double one = inclusive;
  Corners r(boxes.index_select(0, index)), b(lesions.index_select(0, assigned.index_select(0, index)));
  auto size = [&](const Tensor &from, const Tensor &to) { return (to - from + one).clamp_min(1e-3); };
  auto logarithm = [](const Tensor &x) { return x.to(at::kDouble).log().to(at::kFloat); };
  Tensor rw = size(r.x1, r.x2), rh = size(r.y1, r.y2);
  return at::stack({((b.x1 + b.x2) * 0.5 - (r.x1 + r.x2) * 0.5) / rw, ((b.y1 + b.y2) * 0.5 - (r.y1 + r.y2) * 0.5) / rh,
                    logarithm(size(b.x1, b.x2) / rw), logarithm(size(b.y1, b.y2) / rh)},
                   1);
}

// decode is boxops.Coder.Decode and Convention.Clip.
Tensor decode(const Tensor &references, const Tensor &deltas, int64_t height, int64_t width, double one) {
  double most = static_cast<float>(std::log(1000.0 / 16)), half = one * 0.5;
  auto axis = [&](const Tensor &from, const Tensor &to, int64_t i, int64_t length) {
    Tensor size = to - from + one;
    Tensor centre = (from + to) * 0.5 + size * deltas.select(-1, i);
    Tensor reach = size * deltas.select(-1, i + 2).clamp(-most, most).to(at::kDouble).exp().to(at::kFloat) * 0.5;
    double end = static_cast<double>(length) - one;
    return std::pair<Tensor, Tensor>((centre - reach + half).clamp(0, end), (centre + reach - half).clamp(0, end));
  };
  Corners r(references);
  auto x = axis(r.x1, r.x2, 0, width), y = axis(r.y1, r.y2, 1, height);
  return at::stack({x.first, y.first, x.second, y.second}, -1);
}

void nms_on_cpu(const NmsImage &t) {
  for (int64_t box = 0; box < t.count; box++) {
    for (int64_t word = 0; word < t.words; word++) nms_compare(t, box, word);
  }
  int64_t kept = 0;
  uint64_t own[kWord] = {};
  for (int64_t word = 0; word < t.words && kept < t.limit; word++) {
    for (int64_t i = 0; i < kWord && word * kWord + i < t.count; i++) own[i] = t.mask[(word * kWord + i) * t.words + word];
    uint64_t stay = nms_keep(t, word, own, kept);
    for (int64_t other = word + 1; other < t.words; other++) nms_remove(t, word, stay, other);
  }
}

// nms is boxops.Convention.NMS of every image: the numbers of the boxes kept, -1 behind them.
Tensor nms(const Tensor &given, double threshold, int64_t limit, bool inclusive) {
  check("nms", "boxes", given, given, at::kFloat, {-1, -1, 4});
  TORCH_CHECK(limit >= 1, "nms: limit is ", limit, ", want 1 or more");
  Tensor boxes = given.contiguous();
  int64_t images = boxes.size(0), count = boxes.size(1), words = (count + kWord - 1) / kWord;
  auto whole = boxes.options().dtype(at::kLong);
  limit = std::min(limit, count);
  Tensor keep = at::full({images, limit}, -1, whole), mask = at::empty({images, count, words}, whole), gone = at::zeros({images, words}, whole);
  if (keep.numel() == 0) return keep;
  auto image = [&](int64_t n) {
    return NmsImage{boxes.data_ptr<float>() + n * count * 4, count, words, limit, static_cast<float>(threshold), inclusive ? 1.0f : 0.0f,
                    reinterpret_cast<uint64_t *>(mask.data_ptr<int64_t>()) + n * count * words,
                    reinterpret_cast<uint64_t *>(gone.data_ptr<int64_t>()) + n * words, keep.data_ptr<int64_t>() + n * limit};
  };
  for (int64_t n = 0; n < images; n++) {
    if (boxes.is_cpu()) {
      nms_on_cpu(image(n));
    } else {
      on_cuda(boxes, "nms", [&](void *stream) { return a3d_cuda_nms(image(n), stream); });
    }
  }
  return keep;
}

// propose gives of every image the best pre anchors, decoded and clipped, and of these at most
// post after suppression, as rows of x1 y1 x2 y2, objectness, and 1, or 0 behind the last; no
// number in its place where a box was not finite.
Tensor propose(const Tensor &logits, const Tensor &deltas, const Tensor &anchors, int64_t pre, int64_t post, int64_t height, int64_t width,
               double threshold, bool inclusive) {
  check("propose", "anchors", anchors, anchors, at::kFloat, {-1, 4});
  int64_t count = anchors.size(0);
  check("propose", "logits", logits, anchors, at::kFloat, {-1, count});
  check("propose", "deltas", deltas, anchors, at::kFloat, {logits.size(0), count, 4});
  TORCH_CHECK(pre >= 1 && post >= 1, "propose: ", pre, " before and ", post, " after suppression, want 1 or more");
  at::NoGradGuard guard;
  auto [best, index] = logits.topk(std::min(pre, count), 1);
  Tensor places = index.unsqueeze(2).expand({-1, -1, 4});
  Tensor boxes = decode(anchors.index_select(0, index.reshape(-1)).view_as(places), deltas.gather(1, places), height, width, inclusive);
  Tensor kept = nms(boxes, threshold, post, inclusive), row = kept.clamp_min(0);
  Tensor finite = boxes.isfinite().all(2).all(1, true).to(at::kFloat);
  Tensor valid = (kept >= 0).to(at::kFloat) * finite / finite; // 0 / 0 is no number
  return at::cat({boxes.gather(1, row.unsqueeze(2).expand({-1, -1, 4})), best.sigmoid().gather(1, row).unsqueeze(2), valid.unsqueeze(2)}, 2);
}

// Samples are the cells of a map that the output cells along one axis read, and their weights:
// [regions, size, 2 samples].
struct Samples {
  Tensor cell, weight;
};

Samples sample_axis(const Tensor &low, const Tensor &high, int64_t size, int64_t samples, int64_t stride, bool legacy, int64_t length) {
  float scale = 1 / static_cast<float>(stride);
  Tensor start = legacy ? low * scale : low * scale - 0.5;
  Tensor extent = legacy ? ((high + 1) * scale - start).clamp_min(0) : high * scale - 0.5 - start;
  Tensor bin = (extent / size).view({-1, 1, 1});
  Tensor p = at::arange(size, low.options()).view({1, -1, 1}), i = at::arange(samples, low.options()).view({1, 1, -1}) + 0.5;
  Tensor v = start.view({-1, 1, 1}) + p * bin + i * bin / samples;
  Tensor seen = (v >= -1).logical_and(v <= length);
  v = v.clamp_min(0).masked_fill(seen.logical_not(), 0);
  Tensor lower = v.floor();
  Tensor beyond = (v - lower).masked_fill(lower >= length - 1, 0), inside = seen.to(at::kFloat);
  lower = lower.clamp_max(length - 1);
  return {at::cat({lower, (lower + 1).clamp_max(length - 1)}, 2).to(at::kLong),
          at::cat({(1 - beyond) * inside, beyond * inside}, 2) / samples};
}

// roi_align is boxops.RoIAlign of regions [M, 5], image and corners: [M, size * size, C].
Tensor roi_align(const Tensor &features, const Tensor &regions, int64_t size, int64_t samples, int64_t stride, bool legacy) {
  check("roi_align", "features", features, features, at::kFloat, {-1, -1, -1, -1});
  check("roi_align", "regions", regions, features, at::kFloat, {-1, 5});
  TORCH_CHECK(size >= 1 && samples >= 1 && stride >= 1 && features.numel() > 0, "roi_align: size ", size, ", samples ", samples, ", stride ", stride, ", features ",
              features.sizes(), ", want 1 or more of each");
  int64_t rows = features.size(2), columns = features.size(3), count = regions.size(0), points = 2 * samples;
  Tensor cell, weight;
  {
    at::NoGradGuard guard;
    Corners r(regions.narrow(1, 1, 4));
    Samples x = sample_axis(r.x1, r.x2, size, samples, stride, legacy, columns), y = sample_axis(r.y1, r.y2, size, samples, stride, legacy, rows);
    Tensor image = regions.select(1, 0).to(at::kLong).clamp(0, features.size(0) - 1).view({-1, 1, 1});
    auto across = [&](const Tensor &t) { return t.view({count, 1, size, 1, points}); };
    auto down = [&](const Tensor &t) { return t.view({count, size, 1, points, 1}); };
    cell = (down((image * rows + y.cell) * columns) + across(x.cell)).reshape(-1);
    weight = (down(y.weight) * across(x.weight)).reshape(-1);
  }
  int64_t bags = count * size * size;
  Tensor cells = features.permute({0, 2, 3, 1}).reshape({-1, features.size(1)});
  Tensor offsets = at::arange(bags, cell.options()) * (points * points);
  Tensor sums = std::get<0>(at::embedding_bag(cells, cell, offsets, false, 0, false, weight));
  return sums.view({count, size * size, features.size(1)});
}

} // namespace
#endif
