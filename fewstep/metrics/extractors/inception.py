"""The Inception-v3 network of the FID (Heusel et al. 2017, arXiv 1706.08500), up to its 2048 pooled features.

The architecture is Szegedy et al. 2015 (arXiv 1512.00567) as TensorFlow's 2015 graph has it, which differs from what
image libraries call Inception-v3: average pools leave the padding out of the mean, and the last block pools by maximum.
Parameters are named as in the widespread PyTorch port, so that its published weights fit.

Written here although torch-fidelity, which torchmetrics wraps, has the network too: theirs downloads its weights or
unpickles a file when it is made, and cannot be made without either; ours takes safetensors of a known hash.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 299
_STEM = 32  # channels of the first convolution at full width


class Convolution(nn.Module):
    """Convolution without bias, batch norm in inference, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int | tuple[int, int], stride: int = 1,
                 padding: int | tuple[int, int] = 0):  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 × 35: 1×1, 5×5, double 3×3 and pool."""

    def __init__(self, inputs: int, pooled: int, w):
        super().__init__()
        self.branch1x1 = Convolution(inputs, w(64), 1)
        self.branch5x5_1 = Convolution(inputs, w(48), 1)
        self.branch5x5_2 = Convolution(w(48), w(64), 5, padding=2)
        self.branch3x3dbl_1 = Convolution(inputs, w(64), 1)
        self.branch3x3dbl_2 = Convolution(w(64), w(96), 3, padding=1)
        self.branch3x3dbl_3 = Convolution(w(96), w(96), 3, padding=1)
        self.branch_pool = Convolution(inputs, pooled, 1)
        self.width = 2 * w(64) + w(96) + pooled

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double,
                          self.branch_pool(_mean_pool(x))], 1)  # fmt: skip


class BlockB(nn.Module):
    """35 × 35 to 17 × 17."""

    def __init__(self, inputs: int, w):
        super().__init__()
        self.branch3x3 = Convolution(inputs, w(384), 3, stride=2)
        self.branch3x3dbl_1 = Convolution(inputs, w(64), 1)
        self.branch3x3dbl_2 = Convolution(w(64), w(96), 3, padding=1)
        self.branch3x3dbl_3 = Convolution(w(96), w(96), 3, stride=2)
        self.width = w(384) + w(96) + inputs

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17 × 17: 7×7 convolutions as 1×7 and 7×1."""

    def __init__(self, inputs: int, inner: int, w):
        super().__init__()
        flat, tall = {"size": (1, 7), "padding": (0, 3)}, {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Convolution(inputs, w(192), 1)
        self.branch7x7_1 = Convolution(inputs, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, **flat)
        self.branch7x7_3 = Convolution(inner, w(192), **tall)
        self.branch7x7dbl_1 = Convolution(inputs, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, **tall)
        self.branch7x7dbl_3 = Convolution(inner, inner, **flat)
        self.branch7x7dbl_4 = Convolution(inner, inner, **tall)
        self.branch7x7dbl_5 = Convolution(inner, w(192), **flat)
        self.branch_pool = Convolution(inputs, w(192), 1)
        self.width = 4 * w(192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean_pool(x))], 1)


class BlockD(nn.Module):
    """17 × 17 to 8 × 8."""

    def __init__(self, inputs: int, w):
        super().__init__()
        self.branch3x3_1 = Convolution(inputs, w(192), 1)
        self.branch3x3_2 = Convolution(w(192), w(320), 3, stride=2)
        self.branch7x7x3_1 = Convolution(inputs, w(192), 1)
        self.branch7x7x3_2 = Convolution(w(192), w(192), (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(w(192), w(192), (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(w(192), w(192), 3, stride=2)
        self.width = w(320) + w(192) + inputs

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, functional.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8 × 8; `pool` is the mean in the first and the maximum in the second of them."""

    def __init__(self, inputs: int, w, pool):
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(inputs, w(320), 1)
        self.branch3x3_1 = Convolution(inputs, w(384), 1)
        self.branch3x3_2a = Convolution(w(384), w(384), (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(w(384), w(384), (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(inputs, w(448), 1)
        self.branch3x3dbl_2 = Convolution(w(448), w(384), 3, padding=1)
        self.branch3x3dbl_3a = Convolution(w(384), w(384), (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(w(384), w(384), (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(inputs, w(192), 1)
        self.width = w(320) + 4 * w(384) + w(192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat([
            self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single), self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x)),
        ], 1)  # fmt: skip


class InceptionFID(nn.Module):
    """(N, C, H, W) images in [-1, 1], C 1 or 3 → (N, 2048) features: resized to 299 × 299, bilinear without smoothing
    (half-pixel centres), as the PyTorch port does.

    Args:
        stem: channels of the first convolution; 32 is the FID's network, fewer make every layer as much narrower.
    """

    def __init__(self, stem: int = _STEM):
        super().__init__()

        def w(channels: int) -> int:
            return max(1, channels * stem // _STEM)

        self.stem = stem
        self.Conv2d_1a_3x3 = Convolution(3, w(32), 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(w(32), w(32), 3)
        self.Conv2d_2b_3x3 = Convolution(w(32), w(64), 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(w(64), w(80), 1)
        self.Conv2d_4a_3x3 = Convolution(w(80), w(192), 3)
        self.Mixed_5b = BlockA(w(192), w(32), w)
        self.Mixed_5c = BlockA(self.Mixed_5b.width, w(64), w)
        self.Mixed_5d = BlockA(self.Mixed_5c.width, w(64), w)
        self.Mixed_6a = BlockB(self.Mixed_5d.width, w)
        self.Mixed_6b = BlockC(self.Mixed_6a.width, w(128), w)
        self.Mixed_6c = BlockC(self.Mixed_6b.width, w(160), w)
        self.Mixed_6d = BlockC(self.Mixed_6c.width, w(160), w)
        self.Mixed_6e = BlockC(self.Mixed_6d.width, w(192), w)
        self.Mixed_7a = BlockD(self.Mixed_6e.width, w)
        self.Mixed_7b = BlockE(self.Mixed_7a.width, w, _mean_pool)
        self.Mixed_7c = BlockE(self.Mixed_7b.width, w, lambda x: functional.max_pool2d(x, 3, stride=1, padding=1))
        self.dimensions = self.Mixed_7c.width

    def features(self, images: Tensor) -> Tensor:
        """(N, dimensions)."""
        x = images.expand(-1, 3, -1, -1)
        x = functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = functional.max_pool2d(x, 3, stride=2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c,
                      self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):  # fmt: skip
            x = block(x)
        return x.mean(dim=(2, 3))
