"""A fusion by feature-wise modulation (FiLM; Perez et al. 2018, eq. 2): the report scales
and shifts every channel of every visual token,

    F' = (1 + gamma(r)) * F + beta(r),

r being the mean embedding of the attributes that the report mentions. gamma and beta start
at zero: into a trained pipeline the fusion enters as nothing at all."""
import alignedfusion_sdk as af  # before torch: it takes standard output aside

import torch
from torch import nn


class FiLM(af.Stage):
    name, kind = "fusion", "fusion"
    summary = "the report scales and shifts the channels of visual tokens (FiLM)"
    inputs = [
        af.Port.named("tokens.*", required=True),
        af.Port.named("report.embedding", differentiable=False),
        af.Port.named("report.state"),
    ]
    outputs = [
        af.Port.named("tokens.*", required=True),
        af.Port.named("joint", required=True),
    ]
    settings = [af.Setting("width", "int", "64", "size of the joint token", min=1)]

    def build(self, request):
        width = request.settings["width"]
        self.ports = [p.name for p in request.inputs if p.name.startswith("tokens.")]
        self.report = any(p.name == "report.embedding" for p in request.inputs)
        sizes = {n: request.size(n, "C") for n in self.ports}
        self.into = nn.ModuleDict({_key(n): nn.Linear(c, width) for n, c in sizes.items()})
        if self.report:
            e = request.size("report.embedding", "E")
            self.report_into = nn.Linear(e, width)
            self.film = nn.ModuleDict({_key(n): nn.Linear(e, 2 * c) for n, c in sizes.items()})
            for layer in self.film.values():
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        known = [af.Port(p.name, "FP32", p.shape) for p in request.inputs if p.name in self.ports]
        return {"outputs": known + [af.Port.named("joint", shape=["N", str(width)])]}

    def forward(self, inputs, call):
        outputs, means = {}, []
        if self.report:
            r = _mean_of_mentioned(inputs["report.embedding"], inputs.get("report.state"))
            means.append(self.report_into(r))
        for name in self.ports:
            x = inputs[name]
            if self.report:
                gamma, beta = self.film[_key(name)](r).unsqueeze(1).chunk(2, -1)
                x = (1 + gamma) * x + beta
            outputs[name] = x
            means.append(self.into[_key(name)](x.mean(1)))
        outputs["joint"] = torch.stack(means, 1).mean(1)
        return outputs, {}


def _key(port):
    return port.replace(".", "_")  # module names may hold no dot


def _mean_of_mentioned(embedding, state):
    """[N, A, E] -> [N, E]; zero for a report that mentions nothing."""
    if state is None:
        return embedding.mean(1)
    mentioned = (state != 0).to(embedding.dtype).unsqueeze(-1)
    return (embedding * mentioned).sum(1) / mentioned.sum(1).clamp(min=1)


if __name__ == "__main__":
    af.serve("python-fusion", "1.0.0", [FiLM], license="Apache-2.0", amp=True,
             model_card="Feature-wise modulation of visual tokens by the report. Starts as the identity.")
