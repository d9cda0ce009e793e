#!/usr/bin/env python3
"""Reads the same sentences with medspaCy, negspacy and alignedfusion.

All three get the mentions of our lexicons, so that only the state is judged: stated,
negated, uncertain, unmentioned. negspacy knows stated and negated alone; the second
figure, negated or not, is fair to it. Intervals are bootstrapped over sentences. Sets:
those of the tree (the third to nineteenth were never read before they were first measured; here
the rules have seen them), and of SHARED (../shared), where they are, the cases, the NegEx kit
and OpenI's training labels.

    make peers-reports
"""

import argparse
import csv
import functools
import pathlib
import random
import re
import subprocess
import tempfile
import warnings

from loguru import logger
from ruamel.yaml import YAML

import medspacy
import spacy
from negspacy.negation import Negex  # noqa: F401 (registers "negex")
from spacy.matcher import Matcher
from spacy.util import filter_spans

ROOT = pathlib.Path(__file__).resolve().parents[3]
RULES = ROOT / "host/report/rules"
RANK = ["unmentioned", "negated", "uncertain", "stated"]
# Words of the German and Spanish sentences; the peers read English.
FOREIGN = re.compile(
    r"[^\x00-\x7f]|\b(keine?|nicht|kleiner|fraktur|konkrement|verdacht|frische|gelenkerguss|zeigt|erguss|stenose|infarkt|se|sin|una|ausencia|probable infarto"
    r"|fractura|posible|brak|pas|geen|ingen|senza|ei)\b", re.IGNORECASE)
LETTERS = {"+": "stated", "-": "negated", "?": "uncertain", "u": "unmentioned"}


def lexicon_path(name, folder):
    """The file of a lexicon: beside the sentences, or embedded; None for the default."""
    for path in (folder / f"{name}.yaml", RULES / f"lexicons/{name}.yaml"):
        if path.exists():
            return path
    return None


@functools.cache
def lexicon(path):
    """The mentions of the binary attributes of a lexicon, by name."""
    with open(path or RULES / "chest-xray.yaml", encoding="utf-8") as f:
        attributes = YAML(typ="safe", pure=True).load(f)["attributes"]
    return {a["name"]: a.get("mentions", []) for a in attributes if a["kind"] == "binary"}


def token_pattern(phrase):
    """A phrase of a lexicon as a spaCy pattern; None for one with marks inside words."""
    out = []
    for field in phrase.split():
        optional = len(field) > 1 and field.endswith("?")
        words = field[:-1].split("|") if optional else field.split("|")
        if field.strip("?") == "_":
            token = {"IS_PUNCT": False}
        elif all(re.fullmatch(r"[\w']+\*?", w) for w in words):
            token = {"LOWER": {"REGEX": "^(%s)$" % "|".join(w.replace("*", ".*") for w in words)}}
        else:
            return None
        out.append({**token, "OP": "?"} if optional else token)
    return out


class Peer:
    """A pipeline that says of a span of text in which state it is."""

    def __init__(self, nlp, before, after, judge):
        self.nlp, self.before, self.after, self.judge, self.matchers = nlp, before, after, judge, {}

    def ask(self, text, find):
        """The state of what find(doc) finds in the text, the strongest of several."""
        doc = self.nlp.make_doc(text)
        if not find(doc):
            return "unmentioned"
        for pipe in self.before:
            doc = self.nlp.get_pipe(pipe)(doc)
        doc.ents = filter_spans(find(doc))
        for pipe in self.after:
            doc = self.nlp.get_pipe(pipe)(doc)
        return max([self.judge(e) for e in doc.ents] or ["unmentioned"], key=RANK.index)

    def mentions(self, key, phrases):
        """A finder of a lexicon's phrases."""
        if key not in self.matchers:
            matcher = Matcher(self.nlp.vocab)
            matcher.add("X", [p for p in map(token_pattern, phrases) if p])
            self.matchers[key] = matcher
        return lambda doc: [spacy.tokens.Span(doc, m.start, m.end, "X") for m in self.matchers[key](doc, as_spans=True)]


def medspacy_state(e):
    if e._.is_historical or e._.is_hypothetical or e._.is_family:
        return "unmentioned"
    return "negated" if e._.is_negated else "uncertain" if e._.is_uncertain else "stated"


def peers():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("negex", config={"ent_types": ["X"]})
    return {
        "medspaCy": Peer(medspacy.load(), ["medspacy_pyrush"], ["medspacy_context"], medspacy_state),
        "negspacy": Peer(nlp, ["sentencizer"], ["negex"], lambda e: "negated" if e._.negex else "stated"),
    }


def ours(binary, path, texts, attributes):
    """The states that alignedfusion gives, row by row."""
    return [states[a] for states, a in zip(table(binary, path, texts), attributes)]


def table(binary, path, texts):
    """The states of all attributes that alignedfusion gives, by text."""
    with tempfile.TemporaryDirectory() as folder:
        data, table = pathlib.Path(folder, "in.csv"), pathlib.Path(folder, "out.csv")
        with open(data, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([("id", "text"), *enumerate(texts)])
        command = [binary, "attributes", "extract", "--data", data, "--out", table]
        subprocess.run(command + (["--lexicon", path] if path else []), check=True, capture_output=True)
        with open(table, encoding="utf-8") as f:
            cells = {r["id"]: r for r in csv.DictReader(f)}
    names = {"1": "stated", "0": "negated", "-1": "uncertain", "": "unmentioned"}
    return [{a: names.get(v) for a, v in cells[str(i)].items()} for i in range(len(texts))]


def rows(path, folder, fixed=None):
    """(lexicon file, text, attribute, right state) of a set's English rows of binary attributes."""
    with open(path, encoding="utf-8") as f:
        for r in csv.DictReader(f):
            lex = fixed or r["lexicon"]
            where = lexicon_path(lex, folder)
            if lex == "ct-lesion" or r["attribute"] not in lexicon(where):
                continue
            state = r.get("state") or LETTERS[(r.get("right_state") or r["right"])[0]]
            yield where, (r.get("text") or r["sentence"]).replace("\\n", "\n"), r["attribute"], state


def sets(shared):
    """The sets of sentences by name."""
    kinds = RULES / "testdata/kinds"
    for name in ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
                 "eleventh", "twelfth", "fourteenth", "sixteenth", "seventeenth", "nineteenth", "practice"):
        yield name, [r for r in rows(kinds / f"{name}.csv", kinds) if not FOREIGN.search(r[1])]
    unseen = RULES / "testdata/unseen"
    yield "older", list(rows(unseen / "sentences.csv", unseen))
    cases = shared / "cases/reports"
    if cases.is_dir():
        yield "cases", list(rows(cases / "own.csv", cases))
        hard = [r for n in ("public_chest_failing.csv", "chest_phrases_failing.csv") for r in rows(cases / n, cases, "chest")]
        yield "hard cases", [r for r in hard if r[1].isascii()]


def interval(values, n=2000):
    """Mean of values in percent, with the 95 % interval of a bootstrap."""
    rng = random.Random(0)
    means = sorted(100 * sum(rng.choices(values, k=len(values))) / len(values) for _ in range(n))
    return "%.1f (%.1f–%.1f)" % (100 * sum(values) / len(values), means[n // 40], means[-n // 40])


def f1(pairs):
    """F1 in percent of pairs (said, true)."""
    both, said, true = sum(a and b for a, b in pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs)
    return 200 * both / max(said + true, 1)


def f1_interval(pairs, n=1000):
    rng = random.Random(0)
    values = sorted(f1(rng.choices(pairs, k=len(pairs))) for _ in range(n))
    return "%.1f (%.1f–%.1f)" % (f1(pairs), values[n // 40], values[-n // 40])


def compare(name, data, systems, binary):
    """Prints the rows of one set."""
    answers = {}
    by_lexicon = {}
    for i, (where, *_) in enumerate(data):
        by_lexicon.setdefault(where, []).append(i)
    answers["ours"] = [None] * len(data)
    for where, index in by_lexicon.items():
        for i, state in zip(index, ours(binary, where, [data[i][1] for i in index], [data[i][2] for i in index])):
            answers["ours"][i] = state
    for system, peer in systems.items():
        answers[system] = [peer.ask(t, peer.mentions((w, a), lexicon(w)[a])) for w, t, a, _ in data]
    for system, got in answers.items():
        right = [int(g == d[3]) for g, d in zip(got, data)]
        denied = [int((g == "negated") == (d[3] == "negated")) for g, d in zip(got, data)]
        print(f"| {name} ({len(data)}) | {system} | {interval(right)} | {interval(denied)} |")


def negex_kit(path, systems, binary):
    """Prints F1 of negated on the NegEx kit. Resampling sentences is resampling their kinds, so our counts suffice."""
    said = subprocess.run([binary, "attributes", "evaluate", "--corpus", "negex", "--data", path], check=True, capture_output=True, text=True).stdout
    total, tp, fp, fn = (int(re.search(p, said).group(1)) for p in (r"(\d+) sentences", r"negation .*tp (\d+)", r"negation .*?fp (\d+)", r"negation .*?fn (\d+)"))
    pairs = {"ours": [(1, 1)] * tp + [(1, 0)] * fp + [(0, 1)] * fn + [(0, 0)] * (total - tp - fp - fn)}
    with open(path, encoding="latin-1") as f:
        kit = [r[1:4] for r in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE) if len(r) > 3][1:]
    for system, peer in systems.items():
        pairs[system] = []
        for condition, text, truth in kit:
            at = text.lower().find(condition.lower())
            words = (at, at + len(condition)) if at >= 0 else (0, len(text))
            find = lambda doc: [s for s in [doc.char_span(*words, label="X", alignment_mode="expand")] if s]
            pairs[system].append((peer.ask(text, find) == "negated", truth == "Negated"))
    for system, p in pairs.items():
        print(f"| NegEx kit ({len(p)}) | {system} | F1 of negated {f1_interval(p)} | |")


def openi(folder, systems, binary):
    """Prints micro F1 of OpenI's findings, stated against the rest, resampled over reports."""
    findings = {k: v for k, v in lexicon(None).items() if k != "normal"}
    with open(folder / "gold_train.csv", encoding="utf-8") as f:
        gold = {r["filename"].removeprefix("CXR"): r for r in csv.DictReader(f)}
    with open(folder / "indiana_reports.csv", encoding="utf-8") as f:
        texts = [(r["uid"], r["findings"] + "\n\n" + r["impression"]) for r in csv.DictReader(f) if r["uid"] in gold]
    answers = {"ours": table(binary, None, [t for _, t in texts])}
    for system, peer in systems.items():
        answers[system] = [{k: peer.ask(t, peer.mentions((None, k), v)) for k, v in findings.items()} for _, t in texts]
    for system, got in answers.items():
        counts = []
        for (uid, _), states in zip(texts, got):
            said, true = ([k for k in findings if states[k] == "stated"], [k for k in findings if gold[uid][k] == "1"])
            counts.append((len(set(said) & set(true)), len(said), len(true)))
        print(f"| OpenI, training part ({len(texts)}) | {system} | micro F1 of stated {pooled_interval(counts)} | |")


def pooled_interval(counts, n=1000):
    """Micro F1 in percent of (both, said, true) per report, with its bootstrapped interval."""
    def score(rows):
        both, said, true = (sum(r[k] for r in rows) for k in range(3))
        return 200 * both / max(said + true, 1)

    rng = random.Random(0)
    values = sorted(score(rng.choices(counts, k=len(counts))) for _ in range(n))
    return "%.1f (%.1f–%.1f)" % (score(counts), values[n // 40], values[-n // 40])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default=ROOT / "bin/alignedfusion", type=pathlib.Path)
    p.add_argument("--shared", default=ROOT / "../shared", type=pathlib.Path)
    a = p.parse_args()
    logger.remove()
    warnings.filterwarnings("ignore")
    systems = peers()
    print("| set | system | four states, % right | negated or not, % right |\n|---|---|---|---|")
    for name, data in sets(a.shared):
        compare(name, data, systems, a.binary)
    kit = a.shared / "data/reports/negex/rsAnnotations-1-120-random.txt"
    if kit.exists():
        negex_kit(kit, systems, a.binary)
    if (a.shared / "data/reports/openi").is_dir():
        openi(a.shared / "data/reports/openi", systems, a.binary)


if __name__ == "__main__":
    main()
