"""The few features in which samples are judged: of a small classifier, or principal components without classes.

Both are fitted on the fit split only, so neither the teacher's images nor the reference images have shaped the ruler.
"""

import math
from collections.abc import Callable

import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from fewstep.diffusion.randomness import generator
from fewstep.util.device import device_of
from fewstep.util.errors import NonFinite, SettingsError

_SMALLEST = 4  # images are halved until a side is at most this many pixels
SHIFT = 1  # largest shift of a training image, in pixels
LABEL_SMOOTHING = 0.05


class ConvolutionalFeatures(nn.Module):
    """Convolutions over (N, C, H, W) images in [-1, 1] with a linear layer on their last hidden layer.

    The features are the leading principal components of the hidden layer. Group norm only, so the features of an image
    do not depend on the batch it came in.

    Args:
        shape: (C, H, W) of the images.
        outputs: of the linear layer.
        features: 1 to 16 components (the more features, the more samples a Fréchet distance needs).
        width: channels of the first convolution, a multiple of 8.
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int, features: int = 16, width: int = 32):
        super().__init__()
        self.shape, self.width = tuple(shape), width
        channels, height, breadth = shape
        with torch.device("meta"):  # no draw from the global generator: `initialise` gives the weights
            layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            while True:
                layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
                if min(height, breadth) <= _SMALLEST:
                    break
                wider = min(2 * width, 256)
                layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.SiLU()]
                width, height, breadth = wider, (height + 1) // 2, (breadth + 1) // 2
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(4 * width, outputs)
        self.to_empty(device="cpu")
        self.register_buffer("mean", torch.zeros(4 * width))
        self.register_buffer("components", torch.zeros(features, 4 * width))

    def hidden(self, images: Tensor) -> Tensor:
        """(N, H): the last hidden layer, averaged over the four quarters of the image."""
        return functional.adaptive_avg_pool2d(self.body(images), 2).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, outputs)."""
        return self.head(self.hidden(images))

    def features(self, images: Tensor) -> Tensor:
        """(N, features): principal components of the hidden layer, of variance 1 on average over the fit images."""
        return (self.hidden(images) - self.mean) @ self.components.T

    @torch.no_grad()
    def initialise(self, source: torch.Generator) -> None:
        """Weights drawn from `source`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=source)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.GroupNorm):
                module.weight.fill_(1)
                module.bias.zero_()


class Classifier(ConvolutionalFeatures):
    """Convolutional classifier of (N, C, H, W) images in [-1, 1]; its outputs are scores before the softmax.

    Args:
        num_classes: at least 2.
        shape, features, width: see `ConvolutionalFeatures`.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, features: int = 16, width: int = 32):
        if not (1 <= features <= 16 and num_classes >= 2 and width % 8 == 0):
            raise SettingsError(
                f"a classifier needs 1 to 16 features, 2 or more classes and a width that 8 divides; "
                f"got {features}, {num_classes}, {width}"
            )
        super().__init__(shape, num_classes, features, width)
        self.num_classes = num_classes


def train_classifier(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seed: int,
    steps: int = 600,
    batch: int = 64,
    learning_rate: float = 3e-3,
    features: int = 16,
    width: int = 32,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Trains a `Classifier`; equal arguments give equal weights, bit for bit, on one machine.

    Every step draws its batch, its shifts (up to SHIFT pixels, edges repeated) and a little noise from
    (seed, purpose, step). AdamW with a cosine schedule.

    Args:
        images: (N, C, H, W) in [-1, 1].
        labels: (N,) int64 in [0, num_classes).
        device: where it is trained, and lies then; images and labels are taken from where they are.
        on_step: called with (steps done, steps in all) after every 20th step.

    Raises:
        SettingsError: no images, or a label outside the classes.
        NonFinite: the loss stopped being a number.
    """
    fits = len(images) == len(labels) > 0
    if not (fits and int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise SettingsError(
            f"the classifier needs images and one label in [0, {num_classes}) for each; "
            f"got {len(images)} images and {len(labels)} labels"
        )
    model = Classifier(tuple(images.shape[1:]), num_classes, features, width)
    model.initialise(generator(seed, "classifier-init"))

    def loss_of(x: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(model(x), labels[rows].to(x.device), label_smoothing=LABEL_SMOOTHING)

    fit_network(model.to(device), images, loss_of, seed=seed, steps=steps, batch=batch, learning_rate=learning_rate,
                on_step=on_step)  # fmt: skip
    return model


def fit_network(model: ConvolutionalFeatures, images: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor], *, seed: int,
                steps: int, batch: int, learning_rate: float,
                on_step: Callable[[int, int], None] | None = None) -> None:  # fmt: skip
    """Trains `model` where it lies and fits its components; equal arguments give equal weights, bit for bit, on one
    machine.

    Everything random is drawn on the CPU, so that it is the same for every device.

    Args:
        images: (N, C, H, W) in [-1, 1], on the CPU.
        loss_of: (augmented images (B, C, H, W), their numbers (B,)) → loss.
        on_step: called with (steps done, steps in all) after every 20th step.

    Raises:
        NonFinite: the loss stopped being a number.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02)
    warm = 0.2 if steps == 10 else 0.1      # torch divides by the steps of the warm-up less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=warm)
    device = device_of(model)
    for step in range(steps):
        source = generator(seed, "classifier-step", step)
        rows = torch.randint(len(images), (batch,), generator=source)
        x = _shifted(images[rows], SHIFT, source)
        x = x + 0.05 * torch.randn(x.shape, generator=source)
        loss = loss_of(x.to(device), rows)
        if not torch.isfinite(loss):
            raise NonFinite(f"classifier: the loss is {loss.item()} at step {step}; lower its learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if on_step is not None and (step + 1) % 20 == 0:
            on_step(step + 1, steps)
    model.eval().requires_grad_(False)
    _fit_components(model, torch.cat([model.hidden(some.to(device)) for some in images.split(256)]))


def _fit_components(model: nn.Module, points: Tensor) -> None:
    """Sets `model.mean` and `model.components` from (N, D) points, scaled to a mean variance of 1."""
    features = len(model.components)
    if min(points.shape) <= features:
        raise SettingsError(
            f"{features} features need more than {features} images and dimensions, got {len(points)} images of "
            f"{points.shape[1]} dimensions; add images, raise data.split.fit or lower evaluate.classifier.features"
        )
    fitted = PCA(features, svd_solver="full").fit(points.double().cpu().numpy())
    scale = max(float(fitted.explained_variance_.mean()) ** 0.5, 1e-12)
    model.mean.copy_(torch.from_numpy(fitted.mean_))
    model.components.copy_(torch.from_numpy(fitted.components_ / scale))


def _shifted(images: Tensor, shift: int, source: torch.Generator) -> Tensor:
    """Each image moved by its own whole number of pixels in [-shift, shift] in both directions, edges repeated."""
    if shift == 0:
        return images
    n, _, height, breadth = images.shape
    padded = functional.pad(images, (shift,) * 4, mode="replicate")
    top, left = torch.randint(2 * shift + 1, (2, n, 1), generator=source)
    rows = (top + torch.arange(height))[:, None, :, None]
    columns = (left + torch.arange(breadth))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows, columns]


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor, batch: int = 256) -> float:
    """Share of (N, C, H, W) images that the classifier gives their label."""
    device = device_of(model)
    right = sum(int((model(x.to(device)).argmax(1).cpu() == y).sum())
                for x, y in zip(images.split(batch), labels.split(batch), strict=True))
    return right / len(images)


class PrincipalComponents(nn.Module):
    """Leading principal components of (N, C, H, W) images in [-1, 1], of variance 1 on average over the fit images."""

    def __init__(self, shape: tuple[int, int, int], features: int):
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(math.prod(shape)))
        self.register_buffer("components", torch.zeros(features, math.prod(shape)))

    def features(self, images: Tensor) -> Tensor:
        """(N, features) coordinates."""
        return (images.flatten(1) - self.mean) @ self.components.T


def fit_components(images: Tensor, features: int = 16) -> PrincipalComponents:
    """Principal components of (N, C, H, W) images, for data without classes. Raises SettingsError if N ≤ features."""
    model = PrincipalComponents(tuple(images.shape[1:]), features)
    _fit_components(model, images.flatten(1))
    return model
