"""Reference ids for the WordPiece tests: BERT's tokenization written from its
published description with Python's unicodedata, independent of the Go code.

Run: python3 reference.py            writes vocab.txt and cases.json
     python3 reference.py VOCAB N    prints N cases for another vocabulary
"""
import json
import random
import sys
import unicodedata


def is_control(c):
    return c not in "\t\n\r" and unicodedata.category(c).startswith("C")


def is_space(c):
    return c in " \t\n\r" or unicodedata.category(c) == "Zs"


def is_punctuation(c):
    o = ord(c)
    ascii_mark = 33 <= o <= 47 or 58 <= o <= 64 or 91 <= o <= 96 or 123 <= o <= 126
    return ascii_mark or unicodedata.category(c).startswith("P")


CJK = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
       (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]


def basic(text, lower):
    out = []
    for c in text:
        if c == "\0" or c == "\ufffd" or is_control(c):
            continue
        if is_space(c):
            out.append(" ")
        elif any(a <= ord(c) <= b for a, b in CJK):
            out.append(" " + c + " ")
        else:
            out.append(c)
    words = []
    for word in "".join(out).split():
        if lower:
            word = word.lower()
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        pieces, fresh = [], True
        for c in word:
            if is_punctuation(c):
                pieces.append([c])
                fresh = True
            else:
                if fresh:
                    pieces.append([])
                    fresh = False
                pieces[-1].append(c)
        words += ["".join(p) for p in pieces]
    return " ".join(words).split()


def wordpiece(word, vocab):
    if len(word) > 100:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


def encode(text, vocab, lower):
    pieces = [p for w in basic(text, lower) for p in wordpiece(w, vocab)]
    return [vocab[p] for p in ["[CLS]"] + pieces + ["[SEP]"]]


BASE = ["Pleural effusion: no.", "café naïve façade", "Ångström ÜBER Straße ǅ ﬁbrosis", "İstanbul I\u0307 ı", "ΟΔΟΣ ὈΔΥΣΣΕΎΣ ΣΑΣ Σ ΑΣ.",
        "肺炎, 左肺下叶结节。", "日本語テスト ひらがな カタカナ", "한국어 보고서", "Ёлка и ёж", "हिन्दी परीक्षण", "שלום עולם", "مرحبا بالعالم",
        "e\u0301tat re\u0301sume\u0301", "n\u0303o", "a\u200bb\u200dc\ufeffd", "left\u00a0lung\u3000right", "tab\there\nline\r\nend",
        "zero\x00byte\x07bell", "bad\ufffdchar", "“quoted” — dash… ‘x’ «y» ¿que? ¡si!", "a+b=c <tag> $5 ^~`|", "[CLS] text [MASK] [SEP]",
        "x" * 100, "x" * 101, "ab" * 60, "é" * 100, "🙂 emoji 👩‍⚕️ 🇩🇪", "1.2 cm x 3,4 mm (5%)", "don't won’t", "U.S.A. e.g. i.e.",
        "line\u2028separator\u2029paragraph", "\x0b vertical \x0c form \x1c fs \x85 nel", "½ ² ③ Ⅳ №", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠀀𪜀",
        "", " ", "\n", "ǅabc Ǆ ẞ ŉ ǰ ΐ", "\u0345 \u0300 alone", "ﾊﾝｶｸ ＦＵＬＬ", "a_b-c/d\\e", "ÀÉÎÕÜ àéîõü ç ñ ø æ œ þ ð",
        "\ue000private", "Größe: ≥ 3 µm ± 0.5", "\u202eright to left\u202c", "Đặng Văn Việt", "Łódź Żółć", "क्षि த மி", "ไทย ภาษา"]
VOCAB_WORDS = ("the no of in left right lung heart pleural effusion mass nodule cafe naive facade resume etat test lower upper "
               "lobe unknown size face back report 1 2 3 4 5 cm mm x").split()


def strings(n, seed):
    r = random.Random(seed)
    blocks = [(0x20, 0x7E)] * 4 + [(0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x620, 0x64A),
              (0x904, 0x939), (0xE01, 0xE3A), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F), (0x20A0, 0x20BF), (0x2100, 0x218B),
              (0x3000, 0x30FF), (0x3400, 0x3500), (0x4E00, 0x5000), (0xAC00, 0xAD00), (0xF900, 0xFA6D), (0xFF01, 0xFF9F), (0x1F600, 0x1F64F), (0x20000, 0x20100)]
    out = list(BASE)
    while len(out) < n:
        parts = []
        for _ in range(r.randint(1, 12)):
            kind = r.random()
            if kind < 0.35:
                parts.append(r.choice(VOCAB_WORDS).capitalize() if r.random() < 0.3 else r.choice(VOCAB_WORDS))
            elif kind < 0.5:
                parts.append(r.choice(VOCAB_WORDS) + r.choice(VOCAB_WORDS))
            else:
                a, b = r.choice(blocks)
                # unassigned code points differ between Unicode versions
                parts.append("".join(c for c in (chr(r.randint(a, b)) for _ in range(r.randint(1, 6))) if unicodedata.category(c) != "Cn"))
        out.append(r.choice([" ", "", ", ", "\t", "-"]).join(parts))
    return out


def small_vocab():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + VOCAB_WORDS
    pieces += ["No", "The", "Left", "Lung", "Heart", "caf", "##é", "café", "str", "##aße", "straße", "##ing", "##s", "##us", "##ion"]
    chars = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éüößàçñ")
    for text in BASE:
        for lower in (True, False):
            for w in basic(text, lower):
                chars.update(w)
    # characters of only half the scripts, so that unknown words occur
    keep = [c for i, c in enumerate(sorted(chars)) if ord(c) < 0x250 or i % 3]
    for c in keep:
        for p in (c, "##" + c):
            if p not in pieces:
                pieces.append(p)
    return pieces


def cases(vocab, n):
    return [{"text": t, "uncased": encode(t, vocab, True), "cased": encode(t, vocab, False)} for t in strings(n, 7)]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        with open(sys.argv[1], encoding="utf-8") as f:
            pieces = f.read().split("\n")
        vocab = {p: i for i, p in enumerate(pieces) if p}
        print(json.dumps(cases(vocab, int(sys.argv[2])), ensure_ascii=True))
    else:
        pieces = small_vocab()
        with open("vocab.txt", "w", encoding="utf-8", newline="\n") as f:
            f.write("\n".join(pieces) + "\n")
        vocab = {p: i for i, p in enumerate(pieces)}
        with open("cases.json", "w", encoding="utf-8") as f:
            f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":"), ensure_ascii=True) for c in cases(vocab, 1000)) + "\n]\n")
