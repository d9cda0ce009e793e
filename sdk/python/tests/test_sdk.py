"""The SDK by itself, without a host: python3 -m unittest discover tests"""
import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import alignedfusion_sdk as af

import torch

from alignedfusion_sdk import server
from alignedfusion_sdk.manifest import PortCheck
from alignedfusion_sdk.stage import _OPTIMIZERS, Instance


class Line(af.Stage):
    name, losses = "line", ["square"]
    inputs = [af.Port("x", "FP32", ["N", "3"], required=True, differentiable=True)]
    outputs = [af.Port("y", "FP32", ["N", "2"], required=True, differentiable=True)]

    def build(self, request):
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, inputs, call):
        y = self.linear(inputs["x"])
        return {"y": y}, {"square": (y * y).sum()}


def instance(optimizer="sgd", **values):
    torch.manual_seed(1)
    stage = Line()
    stage.build(None)
    return Instance(stage, optimizer, values, Line.inputs, Line.outputs, 2, True, False)


def call(context, train=True):
    return af.Call(context=context, train=train, seed=1, wanted=frozenset(), metrics={}, notes=[])


class Ports(unittest.TestCase):
    def test_a_port_of_the_catalogue_has_its_fields(self):
        port = af.Port.named("tokens.ct", required=True)
        self.assertEqual((port.dtype, port.shape, port.differentiable, port.required), ("FP32", ["N", "T", "C"], True, True))

    def test_a_misspelt_port_names_the_nearest(self):
        with self.assertRaisesRegex(ValueError, "did you mean 'target.label'"):
            af.Port.named("target.labels")

    def test_one_name_is_one_size_within_a_call(self):
        check = PortCheck([af.Port("a", "FP32", ["N", "C"], required=True), af.Port("b", "FP32", ["N"])], [])
        check.check("input", {"a": ("FP32", [2, 3]), "b": ("FP32", [2])})
        for given in ({"a": ("FP32", [2, 3]), "b": ("FP32", [4])}, {"a": ("INT64", [2, 3])}, {}, {"a": ("FP32", [2, 3]), "c": ("FP32", [2])}):
            with self.assertRaises(af.StageError) as refused:
                PortCheck([af.Port("a", "FP32", ["N", "C"], required=True), af.Port("b", "FP32", ["N"])], []).check("input", given)
            self.assertEqual(refused.exception.code, "InvalidArgument")


class Settings(unittest.TestCase):
    def test_values_are_typed_and_bounded(self):
        self.assertEqual(af.Setting("n", "int", "1", min=1).parse("3"), 3)
        self.assertEqual(af.Setting("r", "floats", "", rising=True).parse("1, 2.5"), [1.0, 2.5])
        self.assertIs(af.Setting("b", "bool", "false").parse("T"), True)
        for setting, text in ((af.Setting("n", "int", "1", min=1), "0"), (af.Setting("n", "int", "1"), "x"), (af.Setting("f", "float", "1"), "nan"),
                              (af.Setting("r", "ints", "", rising=True), "2,1"), (af.Setting("c", "string", "a", choices=["a"]), "b")):
            with self.assertRaises(af.StageError) as refused:
                setting.parse(text)
            self.assertEqual(refused.exception.setting, setting.name)


class Training(unittest.TestCase):
    def test_gradients_accumulate_until_they_are_cleared(self):
        i, x = instance(), torch.randn(4, 3)
        norms = []
        for context in (1, 2):
            i.forward({"x": x}, [], call(context))
            i.backward(context, {}, {"square": 1.0})
            norms.append(i.grad_norm())
        self.assertAlmostEqual(norms[1], 2 * norms[0], places=4)
        i.zero_grad()
        self.assertEqual(i.grad_norm(), 0)

    def test_a_step_is_the_scaled_gradient(self):
        i = instance(momentum=0.0, weight_decay=0.0)
        before = i.stage.linear.weight.detach().clone()
        i.forward({"x": torch.ones(1, 3)}, [], call(1))
        i.backward(1, {"y": torch.ones(1, 2)}, {})
        i.step({"learning_rate": 0.5}, 0.1)
        self.assertTrue(torch.allclose(before - i.stage.linear.weight, torch.full((2, 3), 0.05)))

    def test_a_context_has_one_backward(self):
        i = instance()
        i.forward({"x": torch.ones(1, 3)}, [], call(1))
        i.backward(1, {}, {"square": 1.0})
        for context, code in ((1, "FailedPrecondition"), (7, "NotFound")):
            with self.assertRaises(af.StageError) as refused:
                i.backward(context, {}, {})
            self.assertEqual(refused.exception.code, code)

    def test_training_goes_on_where_it_was_saved(self):
        x = torch.randn(4, 3)

        def train(i, first):
            for context in range(first, first + 3):
                i.zero_grad()
                i.forward({"x": x}, [], call(context))
                i.backward(context, {}, {"square": 1.0})
                i.step({"learning_rate": 0.01}, 1.0)
        for optimizer in _OPTIMIZERS:
            for ema in (0.0, 0.9):
                with tempfile.TemporaryDirectory() as folder:
                    a, b = instance(optimizer, ema=ema), instance(optimizer, ema=ema)
                    train(a, 1)
                    a.save(folder)
                    train(a, 10)
                    b.load(folder, True)
                    b.load(folder, False)
                    train(b, 10)
                    self.assertTrue(torch.equal(a.stage.linear.weight, b.stage.linear.weight), optimizer)
                    for name in a.average:
                        self.assertTrue(torch.equal(a.average[name], b.average[name]), name)

    def test_averaged_weights_follow_the_recurrence(self):
        averaged, plain = instance("adamw", ema=0.4), instance("adamw")
        want = plain.stage.linear.weight.detach().double()
        for n in range(1, 6):
            for i in (averaged, plain):
                i.zero_grad()
                i.forward({"x": torch.ones(4, 3)}, [], call(n))
                i.backward(n, {}, {"square": 1.0})
                i.step({"learning_rate": 0.01}, 1.0)
            d = min(0.4, (1 + n) / (10 + n))
            want = d * want + (1 - d) * plain.stage.linear.weight.detach().double()
        self.assertTrue(torch.equal(averaged.stage.linear.weight, plain.stage.linear.weight))
        with tempfile.TemporaryDirectory() as folder:
            averaged.save(folder)
            plain.load(folder, True)
        self.assertLess((plain.stage.linear.weight.double() - want).abs().max().item(), 1e-6)
        with self.assertRaises(af.StageError):
            instance(ema=1.0)


class Halving(Line):
    """A stage with a rule and a learning rate of its own."""
    optimizer, schedule = "rmsprop", "halves with every step"

    def make_optimizer(self, parameters):
        weight, bias = parameters
        return torch.optim.RMSprop([{"params": [weight]}, {"params": [bias], "lr_scale": 0.0}], lr=0.0, momentum=0.5)

    def learning_rate(self, step, steps, base):
        return base / 2 ** step


class OwnRules(unittest.TestCase):
    def opened(self, optimizer="rmsprop"):
        torch.manual_seed(1)
        stage = Halving()
        stage.build(None)
        return Instance(stage, optimizer, {}, Line.inputs, Line.outputs, 2, True, False)

    def train(self, i, steps):
        for n in steps:
            i.zero_grad()
            i.forward({"x": torch.ones(4, 3)}, [], call(n + 1))
            i.backward(n + 1, {}, {"square": 1.0})
            i.step({"learning_rate": 7.0, "base_rate": 0.1, "step": float(n), "steps": 4.0}, 1.0)

    def test_a_stage_steps_by_its_own_rule_and_rate(self):
        i = self.opened()
        bias = i.stage.linear.bias.detach().clone()
        weight = torch.nn.Parameter(i.stage.linear.weight.detach().clone())
        rule = torch.optim.RMSprop([weight], lr=0.1, momentum=0.5)
        for n in range(3):
            rule.param_groups[0]["lr"] = 0.1 / 2 ** n
            rule.zero_grad()
            (torch.ones(4, 3) @ weight.t() + bias).square().sum().backward()
            rule.step()
        self.train(i, range(3))
        self.assertTrue(torch.allclose(i.stage.linear.weight, weight, atol=1e-6))
        self.assertTrue(torch.equal(i.stage.linear.bias, bias))

    def test_it_goes_on_where_it_was_saved(self):
        a, b = self.opened(), self.opened()
        with tempfile.TemporaryDirectory() as folder:
            self.train(a, range(2))
            a.save(folder)
            b.load(folder, False)
        self.train(a, range(2, 4))
        self.train(b, range(2, 4))
        self.assertTrue(torch.equal(a.stage.linear.weight, b.stage.linear.weight))

    def test_without_it_the_rate_is_the_hosts(self):
        i = self.opened("sgd")
        before = i.stage.linear.weight.detach().clone()
        i.forward({"x": torch.ones(1, 3)}, [], call(1))
        i.backward(1, {"y": torch.ones(1, 2)}, {})
        i.step({"learning_rate": 0.5}, 1.0)
        self.assertGreater((before - i.stage.linear.weight).abs().min(), 0.4)
        with self.assertRaises(af.StageError):
            self.opened("lion")


class AMP(unittest.TestCase):
    def test_products_are_of_eight_bits_and_answers_of_single_precision(self):
        x = torch.tensor([[1, 1 + 1 / 512, 3 / 512]])  # in bfloat16 1, 1 and 3/512
        for amp, y, gradient in ((None, 2 + 6 / 512, 1 + 1 / 512), ("cpu", 2.0, 1.0)):
            torch.manual_seed(1)
            stage = Line()
            stage.build(None)
            with torch.no_grad():
                stage.linear.weight.copy_(torch.tensor([[1 + 1 / 512, 1 + 1 / 512, 1], [0, 0, 0]]))
                stage.linear.bias.zero_()
            i = Instance(stage, "sgd", {}, Line.inputs, Line.outputs, 2, True, False, amp)
            outputs, losses = i.forward({"x": x.clone()}, ["x"], call(1))
            self.assertEqual((outputs["y"].dtype, losses["square"].dtype), (torch.float32, torch.float32))
            self.assertAlmostEqual(outputs["y"][0, 0].item(), y, places=5)
            grads = i.backward(1, {"y": torch.tensor([[1.0, 0.0]])}, {})
            self.assertAlmostEqual(grads["x"][0, 0].item(), gradient, places=6)


class Arithmetic(unittest.TestCase):
    def test_an_open_sets_it_for_the_process(self):
        wanted = server.protocol.message("Arithmetic")
        for tf32, benchmark, deterministic in ((True, True, False), (False, False, True), (False, False, False)):
            server._use_arithmetic(wanted(tf32=tf32, cudnn_benchmark=benchmark, deterministic=deterministic))
            self.assertEqual((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32), (tf32, tf32))
            self.assertEqual(torch.backends.cudnn.benchmark, benchmark)
            self.assertEqual((torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()), (deterministic, deterministic))

    def test_half_precision_is_there_or_refused(self):
        x = torch.ones(1, 1, 4, 4, dtype=torch.float16)
        try:
            torch.matmul(x, x), torch.nn.functional.conv2d(x, x[..., :1, :1])
        except RuntimeError:
            with self.assertRaises(af.StageError) as refused:
                server._use_half("cpu")
            self.assertEqual(refused.exception.setting, "train.amp")
        else:
            server._use_half("cpu")


class Together(unittest.TestCase):
    def test_members_step_as_one_stage_with_all_cases(self):
        alone, members = instance(), [instance(), instance()]
        members[1].stage.linear.weight.data.zero_()  # joining gives it rank 0's
        unused = torch.nn.Parameter(torch.ones(1))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            store = "127.0.0.1:%d" % s.getsockname()[1]
        joining = [threading.Thread(target=i.join, args=(k, 2, store, "", 20)) for k, i in enumerate(members)]
        for thread in joining:
            thread.start()
        for thread in joining:
            thread.join()
        x = torch.randn(4, 3)
        for i, rows, scale in ((members[0], x[:2], 2.0), (members[1], x[2:], 2.0), (alone, x, 1.0)):
            i.named.append(("unused", unused))
            i.forward({"x": rows}, [], call(1))
            i.backward(1, {}, {"square": scale})  # a sum: twice its half is the mean
            if i is not alone:
                i.share_gradients()
        for i in members + [alone]:
            self.assertAlmostEqual(i.grad_norm(), alone.grad_norm(), places=3)
            i.step({"learning_rate": 0.01}, 1.0)
            self.assertIsNone(unused.grad)
        self.assertTrue(torch.equal(members[0].stage.linear.weight, members[1].stage.linear.weight))
        self.assertTrue(torch.allclose(members[0].stage.linear.weight, alone.stage.linear.weight, atol=1e-6))
        with self.assertRaises(af.StageError):
            alone.share_gradients()


class Normalised(Line):
    def build(self, request):
        super().build(request)
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, inputs, call):
        y = self.linear(self.norm(inputs["x"]) ** 2)
        return {"y": y}, {"square": (y * y).sum()}


class BatchNorm(unittest.TestCase):
    def test_members_normalise_as_one_stage_with_all_cases(self):
        def made():
            torch.manual_seed(1)
            stage = Normalised()
            stage.build(None)
            return Instance(stage, "sgd", {}, Line.inputs, Line.outputs, 2, True, False)
        alone, members = made(), [made(), made()]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            store = "127.0.0.1:%d" % s.getsockname()[1]
        x = 1 + 2 * torch.randn(5, 3)
        grads = {}

        def learn(i, rows, scale, rank=None):
            if rank is not None:
                i.join(rank, 2, store, "", 20, True)
            i.forward({"x": rows}, ["x"], call(1))
            grads[rank] = i.backward(1, {}, {"square": scale})["x"]
            if rank is not None:
                i.share_gradients()
            i.step({"learning_rate": 0.01}, 1.0)
        both = [threading.Thread(target=learn, args=(members[0], x[:2], 2.0, 0)), threading.Thread(target=learn, args=(members[1], x[2:], 2.0, 1))]
        for thread in both:
            thread.start()
        learn(alone, x, 1.0)
        for thread in both:
            thread.join()
        want = alone.stage.state_dict()
        for i in members:
            for name, value in i.stage.state_dict().items():
                self.assertTrue(torch.allclose(value, want[name], rtol=1e-4, atol=1e-5), (name, value, want[name]))
        self.assertTrue(torch.allclose(torch.cat([grads[0], grads[1]]), 2 * grads[None], rtol=1e-4, atol=1e-4))


class Missing(unittest.TestCase):
    def test_what_python_lacks_is_said_in_a_sentence(self):
        folder = os.path.dirname(os.path.dirname(os.path.abspath(af.__file__)))
        # -S: no installed packages.
        ended = subprocess.run([sys.executable, "-S", "-c", "import sys; sys.path.insert(0, %r); import alignedfusion_sdk" % folder],
                               capture_output=True, text=True)
        self.assertEqual(ended.returncode, 1)
        self.assertIn("has no torch, grpcio, protobuf: install with `apt-get install python3-torch python3-grpcio python3-protobuf`", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)


if __name__ == "__main__":
    unittest.main()
