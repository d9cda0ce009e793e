"""The class a plugin author derives from, and the training machinery around it."""
import contextlib
import dataclasses
import datetime
import json
import os
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

import torch

from . import batchnorm, safetensors
from .errors import StageError
from .manifest import OpenRequest, Port, PortCheck, Setting


@dataclasses.dataclass
class Call:
    """One Forward. seed is the source of its randomness; torch is seeded with it already."""
    context: int
    train: bool
    seed: int
    wanted: FrozenSet[str]
    metrics: Dict[str, float]
    notes: List[str]


class Stage(torch.nn.Module):
    """A stage: declare ports, make modules in build, compute in forward.

    forward(inputs, call) gets torch tensors by port name and returns (outputs, losses):
    tensors by port name and scalar losses by name. Autograd does the rest. Inputs lie in
    memory the host lends: do not change them in place and do not keep them.
    """
    name: str = "stage"
    kind: str = "head"
    summary: str = ""
    inputs: List[Port] = []
    outputs: List[Port] = []
    settings: List[Setting] = []
    losses: List[str] = []
    metrics: List[str] = []
    tasks: List[str] = []
    trainable: bool = True
    # An update rule of the stage's own by name (make_optimizer), and a learning rate of its own
    # in words (learning_rate); "" is the host's.
    optimizer: str = ""
    schedule: str = ""

    def build(self, request: OpenRequest) -> Optional[Dict[str, List[Any]]]:
        """Makes the modules. request: OpenRequest. May return ports with known sizes:
        {"outputs": [Port, …], "inputs": [Port, …], "notes": [str, …]}; and "losses": [str, …],
        those that every training forward with the targets returns (a loss that a batch has
        nothing for is 0). Left out, they are all of a head and none of another stage."""

    def forward(self, inputs: Dict[str, torch.Tensor], call: Call) -> Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]:
        """Computes; see the class."""
        raise NotImplementedError


    def make_optimizer(self, parameters: List[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The stage's own optimizer, where the class names one. A group of parameters may have
        "lr_scale", by which the learning rate is multiplied for it."""
        raise NotImplementedError

    def learning_rate(self, step: int, steps: int, base: float) -> float:
        """The stage's own learning rate at step (from 0) of steps, where the class tells of a
        schedule; base is the rate without the host's."""
        raise NotImplementedError


_OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": 0.0, "ema": 0.0},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.05, "ema": 0.0},
}


@dataclasses.dataclass
class _Open:
    outputs: dict
    losses: dict
    leaves: dict


class Instance:
    """An opened stage: contexts, gradients, optimizer, files."""

    def __init__(self, stage, optimizer, values, ports_in, ports_out, max_open, train, frozen, amp=None, precision=None):
        self.stage, self.ports_in, self.ports_out = stage, ports_in, ports_out
        self.max_open, self.train, self.frozen = max_open, train, frozen
        self.amp = amp  # the kind of device that computes in precision where that is safe, or None
        self.precision = precision or torch.bfloat16
        self.open, self.ended = {}, []
        name = optimizer or "sgd"
        known = dict(_OPTIMIZERS)
        if stage.optimizer:
            known.setdefault(stage.optimizer, {"ema": 0.0})
        if name not in known:
            raise StageError("InvalidArgument", "optimizer %r, want %s" % (name, " or ".join(sorted(known))))
        unknown = set(values) - set(known[name])
        if unknown:
            raise StageError("InvalidArgument", "optimizer %s has no value %s" % (name, ", ".join(sorted(unknown))))
        v = dict(known[name], **values)
        if not 0 <= v["ema"] < 1:
            raise StageError("InvalidArgument", "optimizer value ema is %g, want 0 (no averaged weights) to below 1" % v["ema"])
        # The moving average of the weights, by name, and the number of updates.
        self.ema, self.average, self.steps = v["ema"], {}, 0
        self.named = [(n, p) for n, p in stage.named_parameters() if p.requires_grad]
        # The processes that train the same stage, and the averages that have begun.
        self.peers, self.pending = None, []
        self.optimizer_name, self.optimizer = name, None
        if self.named:
            parameters = [p for _, p in self.named]
            if name == "sgd":
                self.optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=v["momentum"],
                                                 weight_decay=v["weight_decay"], nesterov=bool(v["nesterov"]))
            elif name not in _OPTIMIZERS:
                self.optimizer = stage.make_optimizer(parameters)
            else:
                self.optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(v["beta1"], v["beta2"]),
                                                   eps=v["eps"], weight_decay=v["weight_decay"])

    def join(self, rank, size, store, address, timeout_s, sync_batchnorm=False):
        """Becomes one of size processes, whose parameters and statistics become rank 0's. With
        sync_batchnorm they normalise by all their batches together."""
        if self.peers is not None:
            raise StageError("FailedPrecondition", "the stage is in a group already")
        if not (torch.distributed.is_available() and hasattr(torch.distributed, "ProcessGroupGloo")):
            raise StageError("Unimplemented", "no training in several processes: this torch has no Gloo")
        host, _, port = store.rpartition(":")
        if not host or not port.isdecimal():
            raise StageError("InvalidArgument", "store %r, want HOST:PORT" % store)
        timeout = datetime.timedelta(seconds=timeout_s or 1800)
        gloo = torch.distributed.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = timeout
        options._devices = [gloo.create_device(hostname=address or "127.0.0.1")]
        try:
            # Waiting for workers would hold the interpreter, and health checks with it; gloo waits without.
            meeting = torch.distributed.TCPStore(host, int(port), size, rank == 0, timeout, wait_for_workers=False)
            self.peers = gloo(meeting, rank, size, options)
            self.averaged_by, self.on_device = "gloo", None  # what averages gradients on a GPU, where something does
            if any(p.is_cuda for p in self.stage.parameters()):
                if torch.distributed.is_nccl_available():
                    self.averaged_by = "nccl"
                    self.on_device = torch.distributed.ProcessGroupNCCL(torch.distributed.PrefixStore("nccl", meeting), rank, size, timeout)
                else:
                    self.averaged_by = "gloo, through the machine's memory, as this torch has no NCCL"
            with torch.no_grad():
                for t in self.stage.state_dict().values():
                    own = t.detach().cpu().contiguous().clone()
                    self.peers.broadcast(own, 0).wait()
                    t.copy_(own)
        except RuntimeError as e:
            raise StageError("Internal", "join the other processes: %s" % str(e).partition("\n")[0])
        self.size, self.sync_batchnorm = size, sync_batchnorm

    def _together(self, train):
        """Where batch norm layers meet the other processes."""
        return batchnorm.together(self.peers) if train and self.peers is not None and self.sync_batchnorm else contextlib.nullcontext()

    def share_gradients(self):
        """Begins to average gradients and running statistics; see settle."""
        if self.peers is None:
            raise StageError("FailedPrecondition", "the stage is in no group")
        self.settle()
        statistics = [] if self.frozen else [b for n, b in self.stage.named_buffers() if "running_" in n and b.is_floating_point()]
        parameters = [p for _, p in self.named]
        there = torch.tensor([float(p.grad is not None) for p in parameters])
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        for pieces, into in ((gradients, parameters), ([there] + statistics, statistics)):
            if pieces:
                flat = torch.cat([t.detach().reshape(-1).float() for t in pieces])
                by = self.on_device if into is parameters and self.on_device else self.peers
                flat = flat if by is self.on_device else flat.cpu()
                self.pending.append((flat, into, by.allreduce([flat])))

    def settle(self):
        """Puts averages that have begun in place. One member's missing gradient counts as zero."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        try:
            for _, _, work in pending:
                work.wait()
        except RuntimeError as e:
            raise StageError("Internal", "average the gradients: %s" % str(e).partition("\n")[0])
        there = pending[-1][0][:len(self.named)]
        with torch.no_grad():
            for flat, into, work in pending:
                statistics = work is pending[-1][2]
                at = len(there) if statistics else 0
                for i, t in enumerate(into):
                    mean = (flat[at:at + t.numel()] / self.size).view_as(t).to(t.device)
                    at += t.numel()
                    if statistics:
                        t.copy_(mean)
                    elif there[i] > 0:
                        t.grad = mean

    def forward(self, tensors, needs_grad, call):
        """tensors: name -> torch tensor. Returns outputs and losses."""
        self.settle()
        if call.train:
            if not self.train:
                raise StageError("FailedPrecondition", "TRAIN mode on an instance opened for inference")
            if call.context in self.open:
                raise StageError("InvalidArgument", "context %d is open already" % call.context)
            if len(self.open) >= self.max_open:
                raise StageError("FailedPrecondition", "%d contexts are open, the most the plugin allows" % len(self.open),
                                 advice="call Backward or Release first")
        leaves = {}
        for name in needs_grad:
            tensors[name] = tensors[name].detach().requires_grad_(True)
            leaves[name] = tensors[name]
        _seed(call.seed & 0x7FFFFFFFFFFFFFFF)
        self.stage.train(call.train)
        if self.frozen:
            _hold_statistics(self.stage)
        with torch.set_grad_enabled(call.train), self._autocast(), self._together(call.train):
            answer = self.stage(tensors, call)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise StageError("Internal", "forward returned %s, want (outputs, losses)" % type(answer).__name__)
        outputs, losses = answer
        if self.amp:
            with torch.set_grad_enabled(call.train):
                outputs, losses = _single(outputs), _single(losses)
        for what, declared, given in (("loss", self.stage.losses, losses), ("metric", self.stage.metrics, call.metrics)):
            unknown = sorted(set(given) - set(declared))
            if unknown:
                raise StageError("Internal", "%s %r is not in the manifest" % (what, unknown[0]))
        if call.train:
            self.open[call.context] = _Open(dict(outputs), dict(losses), leaves)
            if call.context in self.ended:
                self.ended.remove(call.context)
        return outputs, losses

    def _autocast(self):
        return torch.autocast(self.amp, dtype=self.precision) if self.amp else contextlib.nullcontext()

    def backward(self, context, grads, weights):
        """Vector-Jacobian products; ends the context. Returns name -> gradient."""
        self.settle()
        if context not in self.open:
            if context in self.ended:
                raise StageError("FailedPrecondition", "context %d has ended" % context, advice="a context has one Backward")
            raise StageError("NotFound", "context %d does not exist" % context)
        o = self.open[context]
        roots, seeds = [], []
        for name, g in grads.items():
            y = o.outputs.get(name)
            if y is None:
                raise StageError("InvalidArgument", port=name, given="not an output of this context")
            if y.shape != g.shape or y.dtype != g.dtype:
                raise StageError("InvalidArgument", port=name, given=str(tuple(g.shape)), wanted=str(tuple(y.shape)))
            if y.requires_grad:
                roots.append(y)
                seeds.append(g)
        for name, w in weights.items():
            if name not in self.stage.losses:
                raise StageError("InvalidArgument", "loss %r is not in the manifest" % name)
            loss = o.losses.get(name)
            if loss is not None and w != 0 and loss.requires_grad:
                roots.append(loss)
                seeds.append(torch.full_like(loss, w))
        self._end(context)
        if roots:
            with self._together(True):
                torch.autograd.backward(roots, seeds)
        return {n: (t.grad if t.grad is not None else torch.zeros_like(t)) for n, t in o.leaves.items()}

    def _end(self, context):
        del self.open[context]
        self.ended.append(context)
        del self.ended[:-1024]

    def release(self, contexts):
        """Ends contexts; unknown ones are skipped."""
        for c in contexts:
            if c in self.open:
                self._end(c)

    def zero_grad(self):
        """Clears accumulated gradients."""
        self.settle()
        for _, p in self.named:
            if p.grad is not None:
                p.grad.zero_()

    def grad_norm(self):
        """L2 norm over all gradients."""
        self.settle()
        norms = [p.grad.norm() for _, p in self.named if p.grad is not None]
        return float(torch.stack(norms).double().norm()) if norms else 0.0

    def step(self, values, scale):
        """One optimizer step with every gradient multiplied by scale first."""
        self.settle()
        lr = values.get("learning_rate")
        if self.stage.schedule and "base_rate" in values:
            lr = float(self.stage.learning_rate(int(values["step"]), int(values["steps"]), values["base_rate"]))
        if lr is None or not (0 <= lr < float("inf")):
            raise StageError("InvalidArgument", "step needs a finite learning_rate of at least 0, given %s" % dict(values))
        if scale != scale or abs(scale) == float("inf"):
            raise StageError("InvalidArgument", "gradient scale is %s, want a finite number" % scale)
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1)
        if scale != 1:
            for _, p in self.named:
                if p.grad is not None:
                    p.grad.mul_(scale)
        self.steps += 1
        if self.ema and not self.average:
            self.average = {n: p.detach().clone() for n, p in self.named}
        self.optimizer.step()
        # As in the Go SDK: lower at the start, or a short run's average is that of its first weights.
        d = min(self.ema, (1 + self.steps) / (10 + self.steps))
        for n, p in self.named:
            if n in self.average:
                self.average[n].mul_(d).add_(p.detach() * (1 - d))

    def save(self, directory):
        """Writes weights and optimizer state as safetensors; returns the file names.

        Where averages are kept they are the weights, and each parameter's own value is a state.
        """
        self.settle()
        weights = dict(self.stage.state_dict(), **self.average)
        about = {"ema": repr(self.ema)} if self.ema else {}
        safetensors.write(os.path.join(directory, "weights.safetensors"), weights, about)
        state, scalars = {n + "#value": p.detach() for n, p in self.named if n in self.average}, {"#steps": self.steps}
        if self.optimizer is not None:
            for i, (name, p) in enumerate(self.named):
                for key, value in self.optimizer.state.get(p, {}).items():
                    if torch.is_tensor(value):
                        state[name + "#" + key] = value
                    elif value is not None:
                        scalars[name + "#" + key] = value
        safetensors.write(os.path.join(directory, "optimizer.safetensors"), state,
                          {"optimizer": self.optimizer_name, "scalars": json.dumps(scalars, sort_keys=True)})
        return ["weights.safetensors", "optimizer.safetensors"]

    def load(self, directory, weights_only):
        """Reads what save wrote. Names that do not fit are listed; nothing changes then."""
        self.settle()
        weights, _ = safetensors.read(os.path.join(directory, "weights.safetensors"))
        own = self.stage.state_dict()
        missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
        mismatched = ["%s is %s, want %s" % (n, tuple(weights[n].shape), tuple(own[n].shape))
                      for n in sorted(set(own) & set(weights)) if own[n].shape != weights[n].shape]
        if missing or unexpected or mismatched:
            raise StageError("InvalidArgument", "weights do not fit: missing %s, unexpected %s, mismatched %s"
                             % (missing, unexpected, mismatched), advice="they belong to another architecture")
        if weights_only:
            self.stage.load_state_dict(weights)
            return
        state, meta = safetensors.read(os.path.join(directory, "optimizer.safetensors"))
        if meta.get("optimizer") != self.optimizer_name:
            raise StageError("InvalidArgument", "saved by optimizer %r, the stage uses %r"
                             % (meta.get("optimizer"), self.optimizer_name))
        self.stage.load_state_dict(weights)
        if self.optimizer is None:
            return
        by_name = dict(self.named)
        self.optimizer.state.clear()
        self.average = {}
        everything = dict(state)
        everything.update(json.loads(meta.get("scalars", "{}")))
        self.steps = everything.pop("#steps", 0)
        for key, value in everything.items():
            name, _, slot = key.partition("#")
            if name not in by_name:
                raise StageError("InvalidArgument", "%r belongs to no parameter" % key)
            if slot == "value":
                if self.ema:
                    self.average[name] = by_name[name].detach().clone()
                with torch.no_grad():
                    by_name[name].copy_(value)
                continue
            self.optimizer.state[by_name[name]][slot] = value

    def port_check(self):
        """A fresh check of one call's tensors."""
        return PortCheck(self.ports_in, self.ports_out)


def _single(tensors):
    """Tensors in single precision where autocast has made them less."""
    return {n: t.float() if torch.is_tensor(t) and t.dtype in (torch.bfloat16, torch.float16) else t for n, t in tensors.items()}


def _hold_statistics(stage):
    """Makes modules with running statistics (batch norm) use them, and leave them as they are."""
    for module in stage.modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()


def _seed(seed):
    """torch.manual_seed without the stack trace that it keeps for CUDA's later start."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def peak_rss_bytes():
    """The process's largest resident size so far."""
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


