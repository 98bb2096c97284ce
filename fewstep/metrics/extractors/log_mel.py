"""Sound as a picture: a spectrogram with a logarithmic scale of levels and the mel scale of pitches."""

import math

import torch
from torch import Tensor, nn

WINDOW_SECONDS = 0.046
"""Length of the window that a spectrum is taken of, rounded to a power of two of numbers: 2048 at 44.1 kHz."""
MELS = 64
QUIET = -80.0
"""Level in dB, of a sine that is as loud as can be, from which on everything is silence."""
_FEWEST = 4     # numbers in a window


class LogMel(nn.Module):
    """Sound (N, C, L) in [-1, 1] → pictures (N, C, mels, times) in [-1, 1]: silence −1, a sine of full level 1.

    Hann windows, each half a window after the last; mel filters are triangles of height 1 over the power, evenly placed
    on m(f) = 2595 log₁₀(1 + f / 700) from 0 to half the rate.

    Args:
        rate: numbers per second.
        length: L.
    """

    def __init__(self, rate: float, length: int):
        super().__init__()
        wished = 2 ** round(math.log2(max(WINDOW_SECONDS * rate, _FEWEST)))
        self.size = max(_FEWEST, min(wished, 2 ** int(math.log2(max(length // 2, _FEWEST)))))
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        self.register_buffer("filters", mel_filters(rate, self.size), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        batch, channels, length = sound.shape
        padded = nn.functional.pad(sound, (0, max(0, self.size - length)))
        spectrum = torch.stft(padded.flatten(0, 1).float(), self.size, self.size // 2, window=self.window, center=True,
                              pad_mode="constant", return_complex=True)  # fmt: skip
        power = spectrum.abs().square() / (self.size * self.window.square().sum() / 4)  # of a full sine 1 in all
        level = 10 * torch.log10((self.filters @ power).clamp(min=10 ** (QUIET / 10)))
        return (1 - 2 * level / QUIET).clamp(-1, 1).unflatten(0, (batch, channels))


def mel_filters(rate: float, size: int) -> Tensor:
    """(mels, size // 2 + 1): at most MELS filters, and no more than there are frequencies."""
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    mels = min(MELS, len(frequencies))
    places = torch.linspace(0, _mel(torch.tensor(rate / 2, dtype=torch.float64)), mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (places / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


def _mel(frequency: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + frequency / 700)
