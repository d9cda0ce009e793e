"""Write stages for alignedfusion in Python, on torch.

Import this package before torch: a plugin's standard output belongs to the
handshake, and importing takes it away from everything else in the process.

    import alignedfusion_sdk as af
    import torch

    class Head(af.Stage):
        name, kind, summary = "linear", "head", "one linear layer on the joint token"
        inputs = [af.Port.named("joint", required=True), af.Port.named("target.label")]
        outputs = [af.Port.named("logits", required=True, differentiable=True)]
        losses = ["classification"]

        def build(self, request):
            self.linear = torch.nn.Linear(request.size("joint", "J"), len(request.labels[0].classes))

        def forward(self, inputs, call):
            logits = self.linear(inputs["joint"])
            losses = {}
            if "target.label" in inputs:
                losses["classification"] = torch.nn.functional.cross_entropy(logits, inputs["target.label"])
            return {"logits": logits}, losses

    af.serve("example", "1.0.0", [Head])

Autograd does backward; optimizers, saving, checks and shared memory are done here.
"""
import importlib.util as _util
import os as _os
import sys as _sys
from typing import Sequence, Type

__version__ = "0.2.0"

# What the plugin's package brought for it (`plugin pack --wheelhouse`) comes before the machine's.
_packages = _os.path.join(_os.path.dirname(_os.path.dirname(_os.path.abspath(__file__))), "packages")
if _os.path.isdir(_packages):
    _sys.path.insert(1, _packages)

_COOKIE = ("ALIGNEDFUSION_PLUGIN", "stage-protocol")


def _say_what_is_missing():
    """Ends the program with a sentence where Python lacks what stages are made of."""
    missing = []
    for module, package in (("torch", "torch"), ("grpc", "grpcio"), ("google.protobuf", "protobuf")):
        try:
            found = _util.find_spec(module)
        except ModuleNotFoundError:  # the package around it
            found = None
        if found is None:
            missing.append(package)
    if missing:
        raise SystemExit("alignedfusion_sdk: %s has no %s: install with `apt-get install %s` for Debian's interpreter, or `%s -m pip install %s`"
                         % (_sys.executable, ", ".join(missing), " ".join("python3-" + m for m in missing), _sys.executable, " ".join(missing)))


_say_what_is_missing()


def _take_stdout() -> int:
    """Keeps file descriptor 1 aside and makes it a second standard error."""
    kept = _os.dup(1)
    _os.set_inheritable(kept, False)
    _os.dup2(2, 1)
    return kept


_handshake_fd = _take_stdout()

from . import catalogue  # noqa: E402
from .manifest import Intensity, LabelSet, OpenRequest, Port, Setting  # noqa: E402
from .errors import StageError  # noqa: E402
from .stage import Call, Stage  # noqa: E402


def serve(name: str, version: str, stages: Sequence[Type[Stage]], license: str = "", model_card: str = "", amp: bool = False, fp16: bool = False) -> None:
    """Runs the plugin; the last statement of its program. Returns when the host ends it.

    stages: Stage classes. amp: forward may be run under torch.autocast in bfloat16 (train.amp);
    fp16: in half precision too (train.amp=fp16).
    `--describe` as the only argument prints the manifest as JSON, `--debug` serves without a host
    and prints what makes hosts use this process.
    """
    from .server import run
    run(_handshake_fd, _COOKIE, name, version, stages, license, model_card, amp, fp16)


__all__ = ["Call", "catalogue", "Intensity", "LabelSet", "OpenRequest", "Port", "Setting", "Stage", "StageError", "serve"]
