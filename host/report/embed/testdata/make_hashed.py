"""Reference values of hashed-ngram-v1, written from its description alone.

Run: python3 make_hashed.py > hashed.json
"""
import json
import math
import unicodedata


def fnv1a(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) % 2**64
    return h


def mix(h):
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD % 2**64
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 % 2**64
    return h ^ (h >> 33)


def embed(text, dim):
    text = unicodedata.normalize("NFKD", text).lower()
    text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    words = "".join(c if unicodedata.category(c)[0] == "L" or unicodedata.category(c) == "Nd" else " " for c in text).split()
    v = [0.0] * dim

    def add(feature, weight):
        h = mix(fnv1a(feature.encode()))
        v[(h & (2**63 - 1)) % dim] += -weight if h >> 63 else weight

    for i, w in enumerate(words):
        add("w:" + w, 1)
        if i:
            add("b:" + words[i - 1] + " " + w, 1)
        marked = "^" + w + "$"
        grams = [marked[k:k + n] for n in (3, 4, 5) for k in range(len(marked) - n + 1)]
        for g in grams:
            add("c:" + g, 1 / math.sqrt(len(grams)))
    size = math.sqrt(sum(x * x for x in v)) or 1
    return [round(x / size, 7) for x in v]


cases = ["age: 30 to 45.", "région: Été.", "pleural effusion: no.", "尺寸: 大.", "a", "..."]
print(json.dumps([{"text": t, "dim": 16, "embedding": embed(t, 16)} for t in cases], indent=0))
