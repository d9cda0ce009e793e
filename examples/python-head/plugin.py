"""A classifier head in Python: mean of the visual tokens, mean of the report tokens and
the joint token, a layer norm and a linear layer."""
import alignedfusion_sdk as af  # before torch: it takes standard output aside

import torch


class Linear(af.Stage):
    name, kind = "head", "head"
    summary = "layer norm and linear layer on pooled tokens"
    tasks = ["classify"]
    inputs = [
        af.Port.named("tokens.*", required=True),
        af.Port.named("joint"),
        af.Port.named("target.label"),
    ]
    outputs = [af.Port.named("logits", required=True, differentiable=True)]
    losses = ["classification"]
    settings = [af.Setting("smoothing", "float", "0", "label smoothing", min=0.0, max=0.99)]

    def build(self, request):
        self.ports = sorted(p.name for p in request.inputs if p.name.startswith("tokens.") or p.name == "joint")
        width = sum(request.size(name, "C") for name in self.ports)
        classes = len(request.labels[0].classes)
        self.norm = torch.nn.LayerNorm(width)
        self.linear = torch.nn.Linear(width, classes)
        self.smoothing = request.settings["smoothing"]
        return {"outputs": [af.Port.named("logits", shape=["N", str(classes)], required=True, differentiable=True)]}

    def forward(self, inputs, call):
        pooled = [inputs[n].mean(1) if n != "joint" else inputs[n] for n in self.ports]
        logits = self.linear(self.norm(torch.cat(pooled, 1)))
        losses = {}
        if "target.label" in inputs:
            losses["classification"] = torch.nn.functional.cross_entropy(
                logits, inputs["target.label"], ignore_index=-1, label_smoothing=self.smoothing)
        return {"logits": logits}, losses


if __name__ == "__main__":
    af.serve("python-head", "1.0.0", [Linear], license="Apache-2.0",
             model_card="A linear classifier; starts untrained.")
