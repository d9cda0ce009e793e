package thirdparty

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pythonMutants change one place of an example: what stands there, and what comes instead.
var pythonMutants = []struct{ example, name, old, new string }{
	{"python-head", "negated gradients", "losses = {}", "logits = 2 * logits.detach() - logits; losses = {}"},
	{"python-fusion", "one gradient detached", "(1 + gamma) * x", "(1 + gamma.detach()) * x"},
	{"python-head", "a norm over the batch", "LayerNorm(width)", "BatchNorm1d(width, track_running_stats=False)"},
	{"python-fusion", "inputs changed in place", "x = inputs[name]", "x = inputs[name]; x.data.mul_(0.5)"},

	{"python-head", "halved gradients", "losses = {}", "logits = logits.detach() + 0.5 * (logits - logits.detach()); losses = {}"},
	{"python-head", "inputs detached", "torch.cat(pooled, 1)", "torch.cat(pooled, 1).detach()"},
	{"python-head", "weights detached", "self.linear(self.norm(torch.cat(pooled, 1)))", "torch.nn.functional.linear(self.norm(torch.cat(pooled, 1)), self.linear.weight.detach(), self.linear.bias)"},
	{"python-head", "the norm's weights detached", "torch.nn.LayerNorm(width)", "torch.nn.LayerNorm(width); self.norm.weight.register_hook(torch.zeros_like)"},
	{"python-head", "the batch's mean leaks", "losses = {}", "logits = logits - 0.1 * logits.mean(0); losses = {}"},
	{"python-head", "softmax over the batch", "losses = {}", "logits = logits.softmax(0); losses = {}"},
	{"python-head", "the call before leaks", "losses = {}", "last, self.last = getattr(self, 'last', None), logits.detach(); logits = logits if last is None or last.shape != logits.shape else logits + 0.01 * last; losses = {}"},
	{"python-head", "dropout in EVAL mode", "losses = {}", "logits = torch.nn.functional.dropout(logits, 0.5, True); losses = {}"},
	{"python-head", "double precision", `{"logits": logits}`, `{"logits": logits.double()}`},
	{"python-head", "a class too few", `{"logits": logits}`, `{"logits": logits[:, 1:]}`},
	{"python-head", "a case too few", `{"logits": logits}`, `{"logits": logits[:-1]}`},
	{"python-head", "no loss", `, losses`, `, {}`},
	{"python-head", "doubled gradients of a weight", "self.smoothing = request", "self.linear.weight.register_hook(lambda g: 2 * g); self.smoothing = request"},
	{"python-head", "negated gradients of a bias", "self.smoothing = request", "self.linear.bias.register_hook(lambda g: -g); self.smoothing = request"},
	{"python-head", "gradients moved by a row", "self.smoothing = request", "self.linear.weight.register_hook(lambda g: g.roll(1, 0)); self.smoothing = request"},
	{"python-head", "gradients of half a weight", "self.smoothing = request", "self.linear.weight.register_hook(lambda g: torch.cat([g[:, :4], 0 * g[:, 4:]], 1)); self.smoothing = request"},
	{"python-head", "gradients cut off", "self.smoothing = request", "self.linear.weight.register_hook(lambda g: g.clamp(-0.01, 0.01)); self.smoothing = request"},
	{"python-head", "a loss without its gradient", "losses = {}", "losses = {}; logits = logits.detach() if 'target.label' in inputs else logits"},

	{"python-fusion", "tokens detached", "outputs[name] = x", "outputs[name] = x.detach()"},
	{"python-fusion", "negated gradients of tokens", "outputs[name] = x", "outputs[name] = 2 * x.detach() - x"},
	{"python-fusion", "scaled gradients of tokens", "outputs[name] = x", "outputs[name] = 1.1 * x - 0.1 * x.detach()"},
	{"python-fusion", "token gradients moved by one", "x = inputs[name]", "x = inputs[name]; x.requires_grad and x.register_hook(lambda g: g.roll(1, 1))"},
	{"python-fusion", "gradients of the first tokens alone", "x = inputs[name]", "x = inputs[name]; x.requires_grad and x.register_hook(lambda g: torch.cat([g[:, :2], 0 * g[:, 2:]], 1))"},
	{"python-fusion", "gradients of the first case alone", "x = inputs[name]", "x = inputs[name]; x.requires_grad and x.register_hook(lambda g: torch.cat([g[:1], 0 * g[1:]]))"},
	{"python-fusion", "the other case's joint", "torch.stack(means, 1).mean(1)", "torch.stack(means, 1).mean(1).roll(1, 0)"},
	{"python-fusion", "the batch's mean in the tokens", "outputs[name] = x", "outputs[name] = x - 0.05 * x.mean(0, keepdim=True)"},
	{"python-fusion", "the batch's deviation", "outputs[name] = x", "outputs[name] = x / (1 + x.std())"},
	{"python-fusion", "a projection detached", "self.into[_key(name)](x.mean(1))", "self.into[_key(name)](x.mean(1)).detach()"},
	{"python-fusion", "the report detached", "means.append(self.report_into(r))", "means.append(self.report_into(r).detach())"},
	{"python-fusion", "a token too few", "outputs[name] = x", "outputs[name] = x[:, 1:]"},
	{"python-fusion", "noise without a seed", "outputs[name] = x", "import time; outputs[name] = x + 1e-4 * (time.time_ns() % 1000)"},
	{"python-fusion", "the last token's gradient left out", "x = inputs[name]", "x = inputs[name]; x.requires_grad and x.register_hook(lambda g: torch.cat([g[:, :-1], 0 * g[:, -1:]], 1))"},
	{"python-fusion", "the first channel's gradient left out", "x = inputs[name]", "x = inputs[name]; x.requires_grad and x.register_hook(lambda g: torch.cat([0 * g[..., :1], g[..., 1:]], -1))"},
	{"python-head", "the last row's gradient left out", "self.smoothing = request", "self.linear.weight.register_hook(lambda g: torch.cat([g[:-1], 0 * g[-1:]])); self.smoothing = request"},
	{"python-fusion", "statistics move when frozen", "outputs[name] = x", "self.into[_key(name)].bias.data.mul_(1.01); outputs[name] = x"},
}

// sampled are the mutants of every run of the tests; ALIGNEDFUSION_MUTANTS=all runs all.
const sampled = 4

func TestValidateCatchesMutantsInPython(t *testing.T) {
	t.Parallel()
	needPython(t)
	flags := map[string][]string{
		"python-head":   {"--shape", "head.tokens.ct=2x5x8", "--shape", "head.joint=2x6"},
		"python-fusion": {"--shape", "fusion.tokens.ct=2x48x16", "--shape", "fusion.report.embedding=2x3x10", "--shape", "fusion.report.state=2x3"},
	}
	mutants := pythonMutants[:sampled]
	if os.Getenv("ALIGNEDFUSION_MUTANTS") == "all" {
		mutants = pythonMutants
	}
	for _, m := range mutants {
		t.Run(m.example+"/"+m.name, func(t *testing.T) {
			dir := pythonPlugin(t, root+"/examples/"+m.example)
			path := filepath.Join(dir, "plugin.py")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), m.old, m.new, 1)
			if changed == string(text) {
				t.Fatalf("%s does not have %q", path, m.old)
			}
			if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"plugin", "validate", "--quiet", "--iterations", "4"}, append(flags[m.example], dir)...)
			out, err := exec.Command("alignedfusion", args...).CombinedOutput()
			var ended *exec.ExitError
			if !errors.As(err, &ended) || ended.ExitCode() != 7 {
				t.Errorf("%v, want exit code 7: a check that fails\n%s", err, out)
			}
			t.Logf("%.300s", out)
		})
	}
}
