"""Batch normalisation by the batches of all processes that train a stage together."""
import contextlib
import threading

import torch

_now = threading.local()  # .peers: the group of the stage that this thread computes
_own = torch.nn.functional.batch_norm


class _SyncNorm(torch.autograd.Function):
    """torch.nn.SyncBatchNorm's arithmetic, which torch has for GPUs alone."""

    @staticmethod
    def forward(ctx, x, weight, bias, peers, running_mean, running_var, momentum, eps):
        x = x.float()
        over = [d for d in range(x.dim()) if d != 1]
        variance, mean = (t.double() for t in torch.var_mean(x, over, unbiased=False))
        count = torch.full((1,), x.numel() / x.size(1), dtype=torch.float64, device=x.device)
        n, mean, square = _sum(peers, [count, mean * count, (variance + mean * mean) * count])
        n = float(n)
        mean, square = mean / n, square / n
        variance = (square - mean * mean).clamp_min(0)
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            running_var.mul_(1 - momentum).add_(variance * (n / max(n - 1, 1)), alpha=momentum)
        mean, variance = mean.float(), variance.float()
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.peers, ctx.eps, ctx.n = peers, eps, n
        return _own(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, variance = ctx.saved_tensors
        over, shape = [d for d in range(x.dim()) if d != 1], [1, -1] + [1] * (x.dim() - 2)
        scale = (variance + ctx.eps).rsqrt()
        unit = (x - mean.view(shape)) * scale.view(shape)
        dw, db = (dy * unit).sum(over), dy.sum(over)
        all_dw, all_db = (t.to(x.dtype) / ctx.n for t in _sum(ctx.peers, [dw, db]))
        gain = scale if weight is None else scale * weight
        dx = gain.view(shape) * (dy - all_db.view(shape) - unit * all_dw.view(shape))
        return dx, None if weight is None else dw, None if weight is None else db, None, None, None, None, None


def _sum(peers, rows):
    flat = torch.cat([t.detach().reshape(-1).double() for t in rows]).cpu()
    peers.allreduce([flat]).wait()
    return flat.to(rows[0].device).split([t.numel() for t in rows])


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    peers = getattr(_now, "peers", None)
    if not training or peers is None:
        return _own(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return _SyncNorm.apply(x, weight, bias, peers, running_mean, running_var, momentum, eps)


@contextlib.contextmanager
def together(peers):
    """Within it torch's batch norm layers, in training mode, use the batches of all peers."""
    torch.nn.functional.batch_norm = _batch_norm
    _now.peers = peers
    try:
        yield
    finally:
        _now.peers = None
