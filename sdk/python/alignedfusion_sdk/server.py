"""The stage protocol in front of Stage classes: go-plugin's handshake, health, checks."""
import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from concurrent import futures

import grpc
import torch
from google.protobuf import json_format

from . import protocol, tensors
from .errors import CODES, StageError
from .manifest import LabelSet, OpenRequest, Port, find
from .stage import Call, Instance, peak_rss_bytes

PROTOCOL_MAJOR = 1
MAX_OPEN_CONTEXTS = 2
WINDOW_BYTES = 8 << 20  # of HTTP/2; fixed, for a search costs a ping with every large message
CAPABILITIES = ["shared-memory", "forward-backward", "backward-norm", "step-zero-grad", "step-all", "data-parallel", "sync-batchnorm",
                "arithmetic"]


def run(handshake_fd, cookie, name, version, stages, license, model_card, amp, fp16):
    """Serves until the host ends the plugin."""
    server = _Server(name, version, stages, license, model_card, amp, fp16)
    if sys.argv[1:] == ["--describe"]:
        text = json_format.MessageToJson(server.manifest, preserving_proto_field_name=True)
        os.write(handshake_fd, (text + "\n").encode())
        return
    debug = sys.argv[1:] == ["--debug"]
    if not debug and os.environ.get(cookie[0]) != cookie[1]:
        sys.exit("This is %s %s, a plugin of alignedfusion; the host starts it. `--describe` prints its manifest, "
                 "`--debug` serves it under a debugger." % (name, version))
    if not debug:
        _hold_lifeline()
        # What asks to stop is the host's to handle, which finishes the step first; Slurm sends
        # it to every process of a job.
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, frame: None)
    offered = {int(v) for v in os.environ.get("PLUGIN_PROTOCOL_VERSIONS", "1").split(",") if v.strip().isdigit()}
    grpc_server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=[
        ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
        ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WINDOW_BYTES)])
    grpc_server.add_generic_rpc_handlers((_Handlers(server, grpc_server),))
    given = "" if debug else os.environ.get("PLUGIN_UNIX_SOCKET_DIR", "")
    folder = given or tempfile.mkdtemp(prefix="alignedfusion")
    socket = os.path.join(folder, "py%d" % os.getpid())
    if not grpc_server.add_insecure_port("unix:" + socket):
        sys.exit("%s: cannot listen on %s" % (name, socket))
    grpc_server.start()
    if debug:
        _serve_debugged(grpc_server, handshake_fd, name, socket)
        return
    # A host without our major gets the number it does not know, and says so itself.
    os.write(handshake_fd, ("1|%d|unix|%s|grpc|\n" % (PROTOCOL_MAJOR, socket)).encode())
    os.close(handshake_fd)
    if PROTOCOL_MAJOR not in offered:
        print("%s: the host offers protocol majors %s, this plugin speaks %d" % (name, sorted(offered), PROTOCOL_MAJOR),
              file=sys.stderr)
    grpc_server.wait_for_termination()
    # The interpreter's own end waits for worker threads and for torch; the host does not.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve_debugged(grpc_server, handshake_fd, name, socket):
    """Serves one host after the other until it is interrupted: a person stands in a debugger."""
    where = json.dumps({name: {"protocol": PROTOCOL_MAJOR, "pid": os.getpid(), "address": socket}})
    # Whose parent ignores a signal is born ignoring it; a debugger's own handler stays.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(number, signal.default_int_handler)
    os.write(handshake_fd, ("export ALIGNEDFUSION_REATTACH='%s'\n" % where).encode())
    try:
        grpc_server.wait_for_termination()
    except KeyboardInterrupt:
        grpc_server.stop(0)
    shutil.rmtree(os.path.dirname(socket), ignore_errors=True)


def _hold_lifeline():
    """Ends the process group when the host's end of the pipe closes."""
    text = os.environ.get("ALIGNEDFUSION_LIFELINE_FD")
    if not text:
        return
    fd = int(text)
    os.set_inheritable(fd, False)

    def wait():
        while True:
            try:
                if os.read(fd, 1) == b"":
                    break
            except InterruptedError:
                continue
            except OSError:
                break
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()


class _Handlers(grpc.GenericRpcHandler):
    """Routes calls: ours, go-plugin's health check and its Shutdown."""

    def __init__(self, server, grpc_server):
        self.server, self.grpc_server = server, grpc_server

    def service(self, details):
        service, _, method = details.method.lstrip("/").rpartition("/")
        if service == protocol.SERVICE and method in protocol.METHODS:
            request, response = protocol.METHODS[method]
            return grpc.unary_unary_rpc_method_handler(
                self._guard(method, response), request.FromString, response.SerializeToString)
        if service == "grpc.health.v1.Health" and method == "Check":
            serving = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
            return grpc.unary_unary_rpc_method_handler(lambda r, c: serving)
        if service == "plugin.GRPCController" and method == "Shutdown":
            return grpc.unary_unary_rpc_method_handler(self._stop)
        return None

    def _stop(self, request, context):
        threading.Timer(0.05, self.grpc_server.stop, args=(0,)).start()
        return b""

    def _guard(self, method, response):
        call = _snake(method)

        def handle(request, context):
            stage, self.server.turn.context = self.server.label(request), context
            try:
                return getattr(self.server, call)(request)
            except StageError as e:
                error = e
            except MemoryError as e:
                error = StageError("ResourceExhausted", "memory: %s" % e)
            except Exception as e:  # a bug of the author's: the process lives on
                traceback.print_exc()
                code = "ResourceExhausted" if "allocate memory" in str(e) or "out of memory" in str(e) else "Internal"
                error = StageError(code, "%s: %s" % (type(e).__name__, e), advice="the plugin's log has the traceback")
            _abort(context, error, stage, call)
            return response()
        return handle


def _snake(name):
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _abort(context, error, stage, call):
    """Ends a call with a status whose details carry the Diagnostic."""
    diagnostic = protocol.Diagnostic(stage=stage, call=call, port=error.port, given=error.given,
                                     wanted=error.wanted, advice=error.advice, cause=error.cause, setting=error.setting)
    message = error.message(stage, call)
    # google.rpc.Status{code = 1, message = 2, details = 3 (Any{type_url = 1, value = 2})}
    any_message = (_field(1, ("type.googleapis.com/" + protocol.PACKAGE + ".Diagnostic").encode())
                   + _field(2, diagnostic.SerializeToString()))
    status = bytes([0x08, CODES[error.code]]) + _field(2, message.encode()) + _field(3, any_message)
    context.set_trailing_metadata((("grpc-status-details-bin", status),))
    context.set_code(next(c for c in grpc.StatusCode if c.value[0] == CODES[error.code]))
    context.set_details(message)


def _field(number, data):
    """A length-delimited protobuf field."""
    out, n = bytearray([number << 3 | 2]), len(data)
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out) + data


class _Server:
    def __init__(self, name, version, stages, license, model_card, amp, fp16):
        self.classes = {s.name: s for s in stages}
        self.memory, self.instances, self.last, self.lock = None, {}, 0, threading.Lock()
        self.turn = threading.local()  # the call that a worker thread has taken on
        self.manifest = protocol.PluginManifest(
            name=name, version=version, protocol_major=PROTOCOL_MAJOR, license=license, model_card=model_card,
            capabilities=CAPABILITIES + ["amp"] * (amp or fp16) + ["fp16"] * fp16, runtime="torch " + torch.__version__, max_open_contexts=MAX_OPEN_CONTEXTS)
        for s in stages:
            self.manifest.stages.append(protocol.StageManifest(
                name=s.name, kind=s.kind, summary=s.summary, losses=s.losses, metrics=s.metrics, tasks=s.tasks,
                trainable=s.trainable, optimizer=s.optimizer, schedule=s.schedule, inputs=[_port(p) for p in s.inputs], outputs=[_port(p) for p in s.outputs],
                settings=[_setting(p) for p in s.settings]))

    def label(self, request):
        """What errors call the stage: "head linear"."""
        request = getattr(request, "forward", request)
        found = self.instances.get(getattr(request, "instance", None))
        stage = found[0].stage if found else self.classes.get(getattr(request, "stage", None))
        return "%s %s" % (stage.kind, stage.name) if stage else ""

    def describe(self, request):
        return protocol.METHODS["Describe"][1](manifest=self.manifest)

    def attach(self, request):
        with self.lock:
            if self.memory is not None:
                raise StageError("FailedPrecondition", "shared memory is attached already")
            self.memory = tensors.attach(request)
        return protocol.METHODS["Attach"][1]()

    def open(self, request):
        start = time.perf_counter_ns()
        cls = self.classes.get(request.stage)
        if cls is None:
            raise StageError("InvalidArgument", "no stage %r, want one of %s" % (request.stage, ", ".join(sorted(self.classes))))
        if request.train and not cls.trainable:
            raise StageError("Unimplemented", "the stage cannot be trained")
        declared = {s.name: s for s in cls.settings}
        unknown = sorted(set(request.settings) - set(declared))
        if unknown:
            raise StageError("InvalidArgument", "unknown setting %r; known: %s" % (unknown[0], ", ".join(sorted(declared))),
                             setting=unknown[0])
        settings = {n: s.parse(request.settings.get(n, s.default)) for n, s in declared.items()}
        _use_device(request.device)
        if request.threads > 0:
            torch.set_num_threads(request.threads)
        if request.HasField("arithmetic"):
            _use_arithmetic(request.arithmetic)
        precision = (torch.float16 if request.fp16 else torch.bfloat16) if request.amp else None
        if precision == torch.float16:
            _use_half(request.device or "cpu")
        opened = OpenRequest(
            settings=settings, seed=request.seed, device=request.device or "cpu", train=request.train, frozen=request.frozen, amp=request.amp,
            inputs=[Port(p.name, p.dtype, list(p.shape), p.required, p.differentiable) for p in request.inputs],
            labels=[LabelSet(label.name, list(label.classes), list(label.class_weights)) for label in request.labels],
            attribute_schema=request.attribute_schema,
            constants={c.name: tensors.read(c, self.memory).clone().to(request.device or "cpu") for c in request.constants}, task=request.task)
        torch.manual_seed(request.seed & 0x7FFFFFFFFFFFFFFF)
        stage = cls()
        known = stage.build(opened) or {}
        stage.to(opened.device)
        if opened.frozen:
            stage.requires_grad_(False)
        ports_in = _known(cls.inputs, known.get("inputs", []))
        ports_out = _known(cls.outputs, known.get("outputs", []))
        instance = Instance(stage, request.optimizer.name, dict(request.optimizer.values), ports_in, ports_out,
                            MAX_OPEN_CONTEXTS, request.train, request.frozen, opened.device.partition(":")[0] if request.amp else None, precision)
        with self.lock:
            self.last += 1
            number = self.last
            self.instances[number] = (instance, threading.Lock())
        count = sum(p.numel() for p in stage.parameters())
        return protocol.METHODS["Open"][1](
            instance=number, parameter_count=count,
            trainable_count=sum(p.numel() for p in stage.parameters() if p.requires_grad),
            inputs=[_port(p) for p in known.get("inputs", [])], outputs=[_port(p) for p in known.get("outputs", [])],
            notes=known.get("notes", []), losses=_promised(cls, known.get("losses")), cost=_cost(start))

    def _instance(self, request):
        found = self.instances.get(request.instance)
        if found is None:
            raise StageError("NotFound", "instance %d does not exist" % request.instance)
        return found

    def _inputs(self, messages):
        given = {}
        for m in messages:
            if m.name in given:
                raise StageError("InvalidArgument", port=m.name, given="given twice")
            given[m.name] = tensors.read(m, self.memory)
        return given

    def forward(self, request):
        instance, lock = self._instance(request)
        with lock:
            # A call that was given up before its turn must not disturb what its caller has
            # asked for since.
            if not self.turn.context.is_active():
                raise StageError("FailedPrecondition", "the call was given up before its turn")
            if request.mode not in (protocol.EVAL, protocol.TRAIN):
                raise StageError("InvalidArgument", "mode %d given, want EVAL or TRAIN" % request.mode)
            train = request.mode == protocol.TRAIN
            if train and not instance.stage.trainable:
                raise StageError("Unimplemented", "the stage cannot be trained")
            given = self._inputs(request.inputs)
            check = instance.port_check()
            check.check("input", {m.name: (m.dtype, list(m.shape)) for m in request.inputs})
            device = next((p.device for p in instance.stage.parameters()), torch.device("cpu"))
            given = {n: t.to(device) if torch.is_tensor(t) else t for n, t in given.items()}
            for name in request.outputs:
                if find(instance.ports_out, name) is None:
                    raise StageError("InvalidArgument", port=name, given="not an output of the stage")
            needs = [m.name for m in request.inputs if m.needs_grad]
            for name in needs:
                if not train or not find(instance.ports_in, name).differentiable:
                    raise StageError("InvalidArgument", port=name, given="an input whose gradient is wanted",
                                     wanted="TRAIN mode and a differentiable input")
            call = Call(request.context, train, request.seed, frozenset(request.outputs), {}, [])
            start = time.perf_counter_ns()
            outputs, losses = instance.forward(given, needs, call)
            try:
                check.check("output", {n: (tensors.FROM_TORCH.get(t.dtype, "?"), list(t.shape)) for n, t in outputs.items()},
                            call.wanted)
            except StageError:
                instance.release([request.context])
                raise
            slot = tensors.Slot(self.memory, request.slot)
            out = protocol.METHODS["Forward"][1](outputs=[slot.write(n, t) for n, t in sorted(outputs.items())],
                                                 notes=call.notes, cost=_cost(start))
            for n, v in losses.items():
                out.losses[n] = float(v)
            for n, v in call.metrics.items():
                out.metrics[n] = float(v)
            return out

    def backward(self, request):
        instance, lock = self._instance(request)
        with lock:
            start = time.perf_counter_ns()
            grads = instance.backward(request.context, self._inputs(request.output_grads), dict(request.loss_weights))
            slot = tensors.Slot(self.memory, request.slot)
            norm = instance.grad_norm() if request.grad_norm else 0.0
            return protocol.METHODS["Backward"][1](
                input_grads=[slot.write(n, g) for n, g in sorted(grads.items())], grad_norm=norm, cost=_cost(start))

    def forward_backward(self, request):
        forward, backward = request.forward, request.backward
        instance, lock = self._instance(forward)
        if forward.mode != protocol.TRAIN or (backward.instance, backward.context) != (forward.instance, forward.context):
            raise StageError("InvalidArgument", "Forward and Backward in one call want TRAIN mode, one instance and one context")
        unknown = sorted(set(backward.loss_weights) - set(instance.stage.losses))
        if unknown:
            raise StageError("InvalidArgument", "loss %r is not in the manifest" % unknown[0])
        out = protocol.METHODS["ForwardBackward"][1](forward=self.forward(forward))
        try:
            if all(math.isfinite(v) for v in out.forward.losses.values()):
                for name in set(backward.loss_weights) - set(out.forward.losses):
                    del backward.loss_weights[name]
                out.backward.CopyFrom(self.backward(backward))
        finally:
            with lock:
                instance.release([forward.context])
        return out

    def release(self, request):
        instance, lock = self._instance(request)
        with lock:
            instance.release(request.contexts)
        return protocol.METHODS["Release"][1]()

    def _trained(self, request, method, act):
        instance, lock = self._instance(request)
        with lock:
            if not instance.stage.trainable:
                raise StageError("Unimplemented", "the stage cannot be trained")
            start = time.perf_counter_ns()
            out = protocol.METHODS[method][1]()
            act(instance, out)
            out.cost.CopyFrom(_cost(start))
            return out

    def zero_grad(self, request):
        return self._trained(request, "ZeroGrad", lambda i, out: i.zero_grad())

    def grad_norm(self, request):
        def act(i, out):
            out.norm = i.grad_norm()
        return self._trained(request, "GradNorm", act)

    def step(self, request):
        def act(i, out):
            i.step(dict(request.values), request.gradient_scale)
            if request.zero_grad:
                i.zero_grad()
        return self._trained(request, "Step", act)

    def step_all(self, request):
        start = time.perf_counter_ns()
        for step in request.steps:
            self.step(step)
        return protocol.METHODS["StepAll"][1](cost=_cost(start))

    def join(self, request):
        if not 0 <= request.rank < request.size:
            raise StageError("InvalidArgument", "rank %d of %d" % (request.rank, request.size))
        def act(i, out):
            i.join(request.rank, request.size, request.store, request.address, request.timeout_ms / 1000, request.sync_batchnorm)
            out.averaged_by = i.averaged_by
        return self._trained(request, "Join", act)

    def average(self, request):
        return self._trained(request, "Average", lambda i, out: i.share_gradients())

    def _folder(self, request, method, act):
        instance, lock = self._instance(request)
        with lock:
            if not os.path.isdir(request.dir):
                raise StageError("InvalidArgument", "%r is not a folder" % request.dir)
            start = time.perf_counter_ns()
            out = protocol.METHODS[method][1]()
            try:
                act(instance, out)
            except (OSError, ValueError) as e:
                raise StageError("InvalidArgument", str(e))
            out.cost.CopyFrom(_cost(start))
            return out

    def save(self, request):
        return self._folder(request, "Save", lambda i, out: out.files.extend(i.save(request.dir)))

    def load(self, request):
        return self._folder(request, "Load", lambda i, out: i.load(request.dir, request.weights_only))

    def close(self, request):
        _, lock = self._instance(request)
        with lock, self.lock:
            del self.instances[request.instance]
        return protocol.METHODS["Close"][1]()

    def shutdown(self, request):
        # go-plugin's own Shutdown follows; a host that does not send it is not waited for.
        timer = threading.Timer(1.0, os._exit, args=(0,))
        timer.daemon = True
        timer.start()
        return protocol.METHODS["Shutdown"][1]()


def _use_arithmetic(wanted):
    """How the process computes in single precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted.tf32
    torch.backends.cudnn.benchmark = wanted.cudnn_benchmark
    torch.backends.cudnn.deterministic = wanted.deterministic
    torch.use_deterministic_algorithms(wanted.deterministic)
    if wanted.deterministic:  # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _use_half(device):
    """Says in one line where torch has no half precision, as those of before 2.4 have none on a CPU."""
    try:
        x = torch.ones(1, 1, 4, 4, dtype=torch.float16, device=device)
        torch.matmul(x, x), torch.nn.functional.conv2d(x, x[..., :1, :1])
    except RuntimeError as e:
        raise StageError("InvalidArgument", "fp16: this torch has no half precision on this device (%s)" % str(e).partition("\n")[0],
                         setting="train.amp", advice="train.amp=bf16 wants no scaling of the loss, and is there everywhere")


def _use_device(name):
    """Makes a device ready, or says in one line why it cannot be used."""
    number = name[len("cuda:"):] if name.startswith("cuda:") else "0" if name == "cuda" else ""
    if name in ("", "cpu"):
        return
    problem = ""
    if not number.isdecimal():
        problem = '"%s" is no device, want cpu, cuda or cuda:N' % name
    else:
        try:
            torch.zeros(1, device=name)
        except (AssertionError, RuntimeError) as e:  # torch raises the first where it has no CUDA
            text = str(e)
            signs = ("from the 'CUDA' backend", "not linked with support for cuda", "not compiled with CUDA")
            problem = "%s: %s" % (name, "this libtorch has no CUDA" if any(s in text for s in signs)
                                  else text.strip().partition("\n")[0])
    if problem:
        raise StageError("InvalidArgument", problem, advice="see --device", setting="device")


def _cost(start):
    return protocol.message("Cost")(compute_ns=time.perf_counter_ns() - start, peak_rss_bytes=peak_rss_bytes())


def _port(p):
    out = protocol.Port(name=p.name, dtype=p.dtype, shape=[str(d) for d in p.shape], required=p.required,
                        differentiable=p.differentiable, help=p.help, on_request=p.on_request, size_multiple=p.size_multiple,
                        lower_is_better=p.lower_is_better)
    if p.intensity is not None:
        out.intensity.CopyFrom(protocol.message("Intensity")(**dataclasses.asdict(p.intensity)))
    return out


def _setting(s):
    out = protocol.Setting(name=s.name, type=s.type, default=str(s.default), choices=s.choices, help=s.help, rising=s.rising)
    for bound in ("min", "max", "above", "below"):
        if getattr(s, bound) is not None:
            setattr(out, bound, getattr(s, bound))
    return out


def _promised(cls, said):
    """The losses that every training forward returns; see Stage.build."""
    if said is None:
        return [n for n in cls.losses if not n.endswith(".*")] if cls.kind == "head" else []
    unknown = sorted(set(said) - set(cls.losses))
    if unknown:
        raise StageError("Internal", "build: loss %r is not in the manifest" % unknown[0])
    return said


def _known(declared, opened):
    """Open says sizes, the class says what a port is. Ports Open left out are as declared."""
    out = []
    for o in opened:
        d = find(declared, o.name)
        if d is not None:
            o = dataclasses.replace(d, name=o.name, shape=o.shape)
        out.append(o)
    names = {p.name for p in opened}
    return out + [p for p in declared if p.name not in names]
