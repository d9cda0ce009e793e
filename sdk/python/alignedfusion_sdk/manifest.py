"""What a stage declares and what the host asks for when it opens one."""
import dataclasses
import difflib
import math
from typing import Any, Dict, List, Optional, Union

from .catalogue import PORTS
from .errors import StageError


@dataclasses.dataclass
class Intensity:
    """What the host does to raw intensities before it sends them: clip to [low, high],
    linearly to [out_low, out_high], then (x - mean[c]) / std[c] when these are given."""
    low: float
    high: float
    out_low: float
    out_high: float
    mean: List[float] = dataclasses.field(default_factory=list)
    std: List[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Port:
    """A named tensor of a stage.

    name: exact, or a family ending in ".*". dtype: an Open Inference Protocol name (FP32,
    INT64, …). shape: numbers or dimension names; one name means one size within a call.
    """
    name: str
    dtype: str = "FP32"
    shape: List[str] = dataclasses.field(default_factory=list)
    required: bool = False
    differentiable: bool = False
    help: str = ""
    on_request: bool = False
    size_multiple: int = 0
    intensity: Optional[Intensity] = None
    lower_is_better: bool = False  # of a metric (metric.*)

    @classmethod
    def named(cls, name: str, **more: Any) -> "Port":
        """The catalogue's port of a name, exact or a member of a family (tokens.ct); more are fields that differ.

        ValueError for a name that the catalogue does not have: declare a port of your own with Port(...).
        """
        families = [f for f in PORTS if f.endswith(".*") and name.startswith(f[:-1])]
        entry = PORTS.get(name) or (PORTS[max(families, key=len)] if families else None)
        if entry is None:
            near = difflib.get_close_matches(name, PORTS, 1)
            raise ValueError("no port %r in the catalogue%s" % (name, "; did you mean %r?" % near[0] if near else ""))
        dtype, shape, differentiable, on_request, text = entry
        fields = {"dtype": dtype, "shape": list(shape), "differentiable": differentiable, "on_request": on_request, "help": text}
        return cls(name, **{**fields, **more})

    def family(self) -> Optional[str]:
        """The prefix of a family's members, None for an exact name."""
        return self.name[:-1] if self.name.endswith(".*") else None


@dataclasses.dataclass
class Setting:
    """One `--set stage.name=value`. type: int, float, bool, string, path, ints or floats.

    min and max are the least and the greatest value of a number; above and below bound it
    without being allowed themselves. A rising list rises strictly.
    """
    name: str
    type: str
    default: str
    help: str = ""
    choices: List[str] = dataclasses.field(default_factory=list)
    min: Optional[float] = None
    max: Optional[float] = None
    above: Optional[float] = None
    below: Optional[float] = None
    rising: bool = False

    def parse(self, text: str) -> Any:
        """The typed value; StageError when it does not fit."""
        def fail(wanted):
            raise StageError("InvalidArgument", "setting %s: %r given, want %s" % (self.name, text, wanted), setting=self.name)
        if self.choices and not any(text == c or c.endswith(".*") and text.startswith(c[:-1]) and text != c[:-1] for c in self.choices):
            fail("one of " + ", ".join(self.choices))

        def number(kind, part, wanted):
            try:
                value = kind(part)
            except ValueError:
                fail(wanted)
            if not math.isfinite(value):
                fail(wanted)
            for bound, kept, words in ((self.min, float.__ge__, "at least"), (self.max, float.__le__, "at most"),
                                       (self.above, float.__gt__, "more than"), (self.below, float.__lt__, "less than")):
                if bound is not None and not kept(float(value), float(bound)):
                    fail("%s, %s %g" % (wanted, words, bound))
            return value
        if self.type == "int":
            return number(int, text, "a whole number")
        if self.type == "float":
            return number(float, text, "a number")
        if self.type == "bool":
            if text.lower() not in ("true", "false", "1", "0", "t", "f"):
                fail("true or false")
            return text.lower() in ("true", "1", "t")
        if self.type in ("ints", "floats"):
            kind = int if self.type == "ints" else float
            values = [number(kind, p.strip(), "numbers with commas between") for p in text.split(",") if p.strip()]
            if self.rising and any(b <= a for a, b in zip(values, values[1:])):
                fail("numbers that rise from one to the next")
            return values
        return text


@dataclasses.dataclass
class LabelSet:
    """One classification task, or the lesion classes of a detector."""
    name: str
    classes: List[str]
    class_weights: List[float]


@dataclasses.dataclass
class OpenRequest:
    """How the host opens a stage. settings holds typed values of every declared setting."""
    settings: Dict[str, Any]
    seed: int
    device: str
    train: bool
    inputs: List[Port]
    labels: List[LabelSet]
    attribute_schema: bytes
    constants: Dict[str, Any]
    task: str
    # Nothing of the stage may change: the SDK holds parameters and running statistics.
    frozen: bool = False
    # forward runs under torch.autocast in lower precision; the SDK gives back single precision.
    amp: bool = False

    def shape(self, port: str) -> List[Optional[int]]:
        """The sizes known of an input: numbers, or None. Missing inputs: InvalidArgument."""
        for p in self.inputs:
            if p.name == port:
                return [int(d) if d.lstrip("-").isdigit() else None for d in p.shape]
        raise StageError("InvalidArgument", port=port, given="not among the inputs of this pipeline",
                         wanted="one of " + ", ".join(p.name for p in self.inputs))

    def size(self, port: str, dim: Union[int, str]) -> int:
        """The size of an input's last dimension ("C") or of dimension number dim."""
        shape = self.shape(port)
        index = dim if isinstance(dim, int) else len(shape) - 1
        if shape[index] is None:
            raise StageError("InvalidArgument", port=port, given="of unknown width",
                             wanted="a size for dimension %s" % dim)
        return shape[index]


def find(ports, name):
    """The port a tensor belongs to: of its name, or the family it is a member of."""
    family = None
    for p in ports:
        if p.name == name:
            return p
        prefix = p.family()
        if prefix and name.startswith(prefix) and len(name) > len(prefix):
            family = p
    return family


class PortCheck:
    """Checks the tensors of one call: names, dtypes, ranks, sizes.

    A dimension name has one size per call; within a family, names that no exact port
    uses have one size per member.
    """

    def __init__(self, inputs, outputs):
        self.ports = {"input": inputs, "output": outputs}
        everything = inputs + outputs
        self.families = [p.family() for p in everything if p.family()]
        self.shared = {d for p in everything if not self._member(p.name) for d in p.shape}
        self.sizes = {}

    def _member(self, name):
        for prefix in self.families:
            if name.startswith(prefix):
                return name[len(prefix):]
        return ""

    def check(self, side, given, wanted=()):
        """given: name -> (dtype, shape). wanted: the on-request outputs asked for."""
        code = "InvalidArgument" if side == "input" else "Internal"
        ports = self.ports[side]
        for name in sorted(given):
            self._one(code, side, ports, name, *given[name])
        for p in ports:
            if not p.required or (p.on_request and p.name not in wanted):
                continue
            prefix = p.family()
            if not any(n == p.name or (prefix and n.startswith(prefix)) for n in given):
                raise StageError(code, port=p.name, given="missing",
                                 wanted="%s %s [%s]" % (side, p.dtype, " ".join(p.shape)), advice=p.help)

    def _one(self, code, side, ports, name, dtype, shape):
        p = find(ports, name)
        if p is None:
            raise StageError(code, port=name, given="not a declared " + side,
                             wanted="one of " + ", ".join(q.name for q in ports))

        def wrong(advice=""):
            want = [str(self.sizes.get(self._key(name, d), d)) for d in p.shape]
            raise StageError(code, port=name, given="%s %s" % (dtype, _show(shape)),
                             wanted="%s [%s]" % (p.dtype, " ".join(want)), advice=advice)
        if p.dtype and dtype != p.dtype:
            wrong()
        if not p.shape:
            return
        if len(shape) != len(p.shape):
            wrong()
        for d, size in zip(p.shape, shape):
            if d in ("", "*", "-1"):
                continue
            if d.isdigit():
                if int(d) != size:
                    wrong()
                continue
            if self.sizes.setdefault(self._key(name, d), size) != size:
                wrong("%s is %d already" % (d, self.sizes[self._key(name, d)]))
        if p.size_multiple > 1 and any(s % p.size_multiple for s in shape[-2:]):
            wrong("the last two sizes must be multiples of %d" % p.size_multiple)

    def _key(self, name, dim):
        member = self._member(name)
        return dim + "@" + member if member and dim not in self.shared else dim


def _show(shape):
    return "[" + " ".join(str(d) for d in shape) + "]"
