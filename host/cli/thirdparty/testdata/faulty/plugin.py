"""A head in Python that misbehaves as its setting "fault" says: the faults that a plugin of
a stranger may have, without Go's runtime in between."""
import alignedfusion_sdk as af  # before torch: it takes standard output aside

import ctypes
import os
import time

import torch

FAULTS = ["none", "segfault", "exit", "exception", "fork", "stderr", "memory", "shape", "nan", "hang", "boxes", "past-slot"]


class Faulty(af.Stage):
    name, kind = "faulty", "head"
    summary = "misbehaves on demand"
    trainable = False
    inputs = [af.Port("x", "FP32", ["N", "C"], required=True)]
    outputs = [af.Port("y", "FP32", ["N", "C"], required=True), af.Port("boxes", "FP32", ["K", "4"])]
    settings = [af.Setting("fault", "string", "none", "what forward does", choices=FAULTS)]

    def build(self, request):
        self.fault = request.settings["fault"]

    def forward(self, inputs, call):
        out = {"y": inputs["x"].clone()}
        print("faulty: about to do", self.fault)
        if self.fault == "segfault":
            ctypes.string_at(8)
        elif self.fault == "exit":
            os._exit(7)
        elif self.fault == "exception":
            raise RuntimeError("a bug in the stage")
        elif self.fault == "fork":
            for alone in (False, True):
                if os.fork() == 0:
                    if alone:
                        os.setsid()
                    os.execv("/bin/sleep", ["alignedfusion-faulty-child", "1000"])
        elif self.fault == "stderr":
            for _ in range(50000):
                os.write(2, b"noise " * 20 + b"\n")
        elif self.fault == "memory":
            kept = []
            while True:
                kept.append(torch.ones(16 << 20))
        elif self.fault == "shape":
            out["y"] = torch.ones(3)
        elif self.fault == "nan":
            out["y"] = out["y"] * float("nan")
        elif self.fault == "hang":
            time.sleep(3600)
        elif self.fault == "boxes":
            out["boxes"] = torch.zeros(1000000, 4)
        elif self.fault == "past-slot":
            x = inputs["x"]
            ctypes.memset(x.data_ptr() + x.numel() * 4, 0xee, 8 << 20)
        return out, {}


if __name__ == "__main__":
    af.serve("faulty", "0.0.1", [Faulty], license="Apache-2.0")
