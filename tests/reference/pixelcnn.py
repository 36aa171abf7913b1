"""Masked convolutions, the gated layer, Row LSTM and Diagonal BiLSTM, as the papers write them: kernels times masks of zeros and
ones, maps skewed so that diagonals are columns. Forward and every gradient.

Made with torch==2.15.0.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from reference import begin, record_layer, save

versions = begin()
out = {}


def mask(outputs, inputs, kernel, kind, window, colours):
    """[out, in, k, k]; channel i belongs to colour i mod colours (van den Oord 2016a, section 3.4)."""
    m, c = torch.zeros(outputs, inputs, kernel, kernel), kernel // 2
    if window in ("past", "above"):
        m[:, :, :c] = 1
    if window == "above":
        m[:, :, c] = float(kind == "B")
    else:
        m[:, :, c, :c] = 1
        of, seen = torch.arange(outputs)[:, None] % colours, torch.arange(inputs)[None] % colours
        m[:, :, c, c] = ((seen < of) | ((seen == of) & (kind == "B"))).float()
    return m


class Masked(nn.Conv2d):
    def __init__(self, inputs, outputs, kernel, kind, window, colours=1):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.mask = mask(outputs, inputs, kernel, kind, window, colours)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


for window in ("past", "above", "left"):
    for kind in "AB":
        for kernel, colours in ((3, 1), (5, 1), (3, 3)):
            name = f"masked.{window}.{kind}.{kernel}.{colours}"
            record_layer(out, name, Masked(3, 6, kernel, kind, window, colours), 2, 3, 5, 7)


def gate(x):
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class Gated(nn.Module):
    """2016b, figure 2 and equation 4; the embedding is of a class."""

    def __init__(self, p, kernel, classes):
        super().__init__()
        self.vertical = Masked(p, 2 * p, kernel, "B", "above")
        self.horizontal = Masked(p, 2 * p, kernel, "B", "left")
        self.across = nn.Conv2d(2 * p, 2 * p, 1, bias=False)
        self.out = nn.Conv2d(p, p, 1)
        self.klass = nn.Embedding(classes, 4 * p)

    def forward(self, v, h, y):
        of_v, of_h = self.klass(y)[:, :, None, None].chunk(2, 1)
        v = self.vertical(v)
        h_in = self.horizontal(h) + self.across(v) + of_h
        return torch.cat([gate(v + of_v), h + self.out(gate(h_in))], 1)


layer = Gated(4, 3, 5)
v, h, y = torch.randn(2, 4, 6, 5, requires_grad=True), torch.randn(2, 4, 6, 5, requires_grad=True), torch.tensor([3, 1])
both = layer(v, h, y)
g = torch.randn_like(both)
both.backward(g)
out |= {"gated.v": v, "gated.h": h, "gated.classes": y, "gated.output": both, "gated.grad_output": g}
out |= {"gated.grad_v": v.grad, "gated.grad_h": h.grad}
out |= {f"gated.{k}": p for k, p in layer.named_parameters()}
out |= {f"gated.grad_{k}": p.grad for k, p in layer.named_parameters()}

record_layer(out, "gate", nn.Identity(), 2, 6, 3, 5, call=gate)


def lstm(columns, weight, valid=None):
    """Over the columns [n, 4c, places] of a list; `weight` [4c, c, taps] is causal or centred by its padding."""
    n, gates, places = columns[0].shape
    taps = weight.shape[2]
    h = c = torch.zeros(n, gates // 4, places)
    hidden = []
    for t, x in enumerate(columns):
        # Diagonals end at the place itself; rows are centred.
        before = taps // 2 if valid is None else taps - 1
        z = x + F.conv1d(F.pad(h, (before, taps - 1 - before)), weight)
        o, f, i, g = z.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        if valid is not None:
            # What the skewed map has outside of the picture is zero.
            h, c = h * valid[t], c * valid[t]
        hidden.append(h)
    return hidden


def skew(x):
    """[n, c, h, w] -> [n, c, h, h + w - 1]: row r moved r to the right (section 3.2)."""
    n, c, h, w = x.shape
    y = torch.zeros(n, c, h, h + w - 1)
    for r in range(h):
        y[:, :, r, r : r + w] = x[:, :, r]
    return y


def unskew(y, w):
    return torch.stack([y[:, :, r, r : r + w] for r in range(y.shape[2])], 2)


def walk(x, weight, kind):
    if kind == "rows":
        return torch.stack(lstm(list(x.unbind(2)), weight), 2)
    if kind == "antidiagonals":
        return walk(x.flip(3), weight, "diagonals").flip(3)
    valid = skew(torch.ones(1, 1, *x.shape[2:]))
    hidden = lstm(list(skew(x).unbind(3)), weight, list(valid.unbind(3)))
    return unskew(torch.stack(hidden, 3), x.shape[3])


for kind, taps in (("rows", 3), ("rows", 1), ("diagonals", 2), ("antidiagonals", 2)):
    for state, height, width in ((3, 4, 6), (5, 6, 4), (2, 1, 3), (2, 3, 1)):
        x = torch.randn(2, 4 * state, height, width, requires_grad=True)
        weight = torch.randn(4 * state, state, taps, requires_grad=True)
        y = walk(x, weight, kind)
        g = torch.randn_like(y)
        y.backward(g)
        name = f"recur.{kind}.{taps}.{state}x{height}x{width}"
        out |= {f"{name}.input": x, f"{name}.weight": weight, f"{name}.output": y, f"{name}.grad_output": g}
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        out |= {f"{name}.grad_input": x.grad, f"{name}.grad_weight": grad}


class Lstm(nn.Module):
    def __init__(self, h, kind):
        super().__init__()
        self.kind = kind
        rows = kind == "rows"
        self.input = Masked(2 * h, 4 * h, 3 if rows else 1, "B", "left")
        self.state = nn.Parameter(0.5 * torch.randn(4 * h, h, 3 if rows else 2))

    def forward(self, x):
        return walk(self.input(x), self.state, self.kind)


class Ends(nn.Module):
    """With its residual connection (figure 5 right), and beside it what the output sees of the layer (section 3.3)."""

    def end(self, h, skip):
        self.out = nn.Conv2d(h, 2 * h, 1)
        self.skip = nn.Conv2d(h, 2 * h, 1) if skip else None

    def forward(self, x):
        h = self.states(x)
        y = x + self.out(h)
        return y if self.skip is None else torch.cat([y, self.skip(h)], 1)


class RowLstm(Ends):
    def __init__(self, h, skip=False):
        super().__init__()
        self.walk = Lstm(h, "rows")
        self.end(h, skip)

    def states(self, x):
        return self.walk(x)


class DiagonalBiLstm(Ends):
    def __init__(self, h, skip=False):
        super().__init__()
        self.left, self.right = Lstm(h, "diagonals"), Lstm(h, "antidiagonals")
        self.end(h, skip)

    def states(self, x):
        return self.left(x) + F.pad(self.right(x), (0, 0, 1, 0))[:, :, :-1]


record_layer(out, "row_lstm", RowLstm(3), 2, 6, 5, 4)
record_layer(out, "diagonal_bilstm", DiagonalBiLstm(3), 2, 6, 5, 4)

# log p(x) of 256 levels, logits of level l and colour c in channel 3 l + c.
x = torch.randint(0, 256, (2, 3, 2, 3))
logits = torch.randn(2, 768, 2, 3, requires_grad=True)
log_p = torch.distributions.Categorical(logits=logits.reshape(2, 256, 3, 2, 3).permute(0, 2, 3, 4, 1)).log_prob(x)
log_p.sum().backward()
out |= {"softmax.levels": x, "softmax.logits": logits, "softmax.log_p": log_p.sum((1, 2, 3)), "softmax.grad": logits.grad}

record_layer(out, "row_lstm_skip", RowLstm(3, skip=True), 2, 6, 5, 4)
record_layer(out, "diagonal_bilstm_skip", DiagonalBiLstm(3, skip=True), 2, 6, 5, 4)

save("pixelcnn", out, versions)
