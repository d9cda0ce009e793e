// Suppression of boxes that overlap better ones, as a GPU's threads do it. It sees memory alone;
// kernels.cu runs it on a GPU, detection.h on the CPU, body by body.
#ifndef ALIGNEDFUSION_A3D_NMS_H
#define ALIGNEDFUSION_A3D_NMS_H
#include "loops.h"

constexpr int64_t kWord = 64; // boxes of a word of bits

// NmsImage is one image's boxes [count, 4], best first. mask has for every box a bit for each
// later one that it suppresses; gone collects those of the boxes kept.
struct NmsImage {
  const float *boxes;
  int64_t count, words, limit; // words is count / kWord, rounded up
  float threshold, one;        // one is 1 where corners are inclusive
  uint64_t *mask, *gone;       // [count, words], [words]
  int64_t *keep;               // [limit], -1 before
};

A3D_BOTH inline float nms_extent(float w, float h) { return w > 0 && h > 0 ? w * h : 0; }

A3D_BOTH inline bool nms_suppresses(const float *a, const float *b, float threshold, float one) {
  float w = (a[2] < b[2] ? a[2] : b[2]) - (a[0] > b[0] ? a[0] : b[0]) + one;
  float h = (a[3] < b[3] ? a[3] : b[3]) - (a[1] > b[1] ? a[1] : b[1]) + one;
  if (w <= 0 || h <= 0) return false;
  float both = w * h;
  return both / (nms_extent(a[2] - a[0] + one, a[3] - a[1] + one) + nms_extent(b[2] - b[0] + one, b[3] - b[1] + one) - both) > threshold;
}

// nms_compare writes one word of a box's mask.
A3D_BOTH inline void nms_compare(const NmsImage &t, int64_t box, int64_t word) {
  uint64_t bits = 0;
  for (int64_t i = box < word * kWord ? 0 : box + 1 - word * kWord; i < kWord; i++) {
    int64_t other = word * kWord + i;
    if (other < t.count && nms_suppresses(t.boxes + 4 * box, t.boxes + 4 * other, t.threshold, t.one)) bits |= uint64_t(1) << i;
  }
  t.mask[box * t.words + word] = bits;
}

// nms_keep says which boxes of a word are kept, and notes them; own are the words of their
// masks at their own place.
A3D_BOTH inline uint64_t nms_keep(const NmsImage &t, int64_t word, const uint64_t *own, int64_t &kept) {
  uint64_t gone = t.gone[word], stay = 0;
  for (int64_t i = 0; i < kWord; i++) {
    if (word * kWord + i >= t.count || kept == t.limit) break;
    if (gone >> i & 1) continue;
    stay |= uint64_t(1) << i;
    gone |= own[i];
    t.keep[kept++] = word * kWord + i;
  }
  return stay;
}

// nms_remove marks what the kept boxes of a word suppress in another word.
A3D_BOTH inline void nms_remove(const NmsImage &t, int64_t word, uint64_t stay, int64_t other) {
  uint64_t gone = t.gone[other];
  for (int64_t i = 0; i < kWord; i++) {
    if (stay >> i & 1) gone |= t.mask[(word * kWord + i) * t.words + other];
  }
  t.gone[other] = gone;
}
#endif
