"""PANNs Cnn14 at 16 kHz (Kong et al., PANNs: large-scale pretrained audio neural networks for audio
pattern recognition, TASLP 2020), from the waveform to 527 AudioSet classes.

Named as the published checkpoint, whose Fourier and mel matrices are weights as well: the front end
is the one that the network was trained with, whatever a library computes today; an FFT would be
faster but is a small part of the network. ``logits`` are the clip-wise probabilities, which the
official C3N code softmaxes once more.

Shapes: N examples, S samples at 16 kHz, F frames of 10 ms, M = 64 mel bands, B = 257 frequency
bins, C channels, D = 2048.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.frozen import FrozenAudioNetwork
from avs.models.types import AudioOutput

__all__ = ["PANNS_FILES", "PANNS_WHERE", "Cnn14"]

PANNS_FILES = ("Cnn14_16k_mAP=0.438.pth",)
PANNS_WHERE = "https://zenodo.org/record/3987831"
SAMPLE_RATE_HZ = 16000
WINDOW, HOP, NUM_BINS, NUM_MEL_BANDS = 512, 160, 257, 64
LOW_HZ, HIGH_HZ = 50.0, 8000.0
LEAST_POWER = 1e-10
WIDTHS = (64, 128, 256, 512, 1024, 2048)
NUM_BLOCKS = len(WIDTHS)


class Cnn14(FrozenAudioNetwork):
    """Waveform [N, S] (a second: S = 16000) -> embedding [N, 2048], probabilities [N, 527]."""

    input_kind = "waveform"
    embedding_dim = 2048
    log_offset = LEAST_POWER  # a floor and not an offset: the front end is its own
    least_samples = HOP * (2 ** (NUM_BLOCKS - 1) - 1)  # a frame is left after the halvings

    def __init__(self, *, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.spectrogram_extractor = _Spectrogram()
        self.logmel_extractor = _LogMel()
        self.bn0 = nn.BatchNorm2d(NUM_MEL_BANDS)
        channels = 1
        for place, width in enumerate(widths, start=1):
            self.add_module(f"conv_block{place}", _ConvBlock(channels, width))
            channels = width
        self.fc1 = nn.Linear(channels, self.embedding_dim)
        self.fc_audioset = nn.Linear(self.embedding_dim, NUM_AUDIOSET_CLASSES)
        self.freeze()

    def describe(self, x_NS: Tensor) -> AudioOutput:
        """Embed and classify waveforms [N, S] in [-1, 1]; S as ``least_samples`` says."""
        log_mel_N1FM = self.logmel_extractor(self.spectrogram_extractor(x_NS))
        maps_NCFM = self.bn0(log_mel_N1FM.transpose(1, 3)).transpose(1, 3)
        for place in range(1, NUM_BLOCKS + 1):
            maps_NCFM = self.get_submodule(f"conv_block{place}")(maps_NCFM)
            if place < NUM_BLOCKS:
                maps_NCFM = F.avg_pool2d(maps_NCFM, 2)
        over_time_NCF = maps_NCFM.mean(dim=3)
        pooled_NC = over_time_NCF.amax(dim=2) + over_time_NCF.mean(dim=2)
        embedding_ND = torch.relu(self.fc1(pooled_NC))
        return AudioOutput(
            embedding=embedding_ND, logits=torch.sigmoid(self.fc_audioset(embedding_ND))
        )


class _Stft(nn.Module):
    """Real and imaginary part of the windowed Fourier transform, as convolutions."""

    def __init__(self) -> None:
        super().__init__()
        time_W = torch.arange(WINDOW, dtype=torch.float64)
        angle_BW = -2 * torch.pi / WINDOW * torch.outer(time_W[:NUM_BINS], time_W)
        window_W = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
        self.conv_real = _kernel_conv(angle_BW.cos() * window_W)
        self.conv_imag = _kernel_conv(angle_BW.sin() * window_W)


class _Spectrogram(nn.Module):
    """Waveform [N, S] -> power [N, 1, F, B]: periodic Hann, centred, reflected at the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = _Stft()

    def forward(self, x_NS: Tensor) -> Tensor:
        padded_N1S = F.pad(x_NS[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")
        real_NBF = self.stft.conv_real(padded_N1S)
        imag_NBF = self.stft.conv_imag(padded_N1S)
        power_NBF: Tensor = real_NBF.square() + imag_NBF.square()
        return power_NBF.transpose(1, 2)[:, None]


class _LogMel(nn.Module):
    """Power [N, 1, F, B] -> decibels [N, 1, F, M]: Slaney's mel scale and area norm."""

    def __init__(self) -> None:
        import torchaudio  # here, since most trainings have another audio network

        super().__init__()
        self.melW = nn.Parameter(
            torchaudio.functional.melscale_fbanks(
                NUM_BINS,
                LOW_HZ,
                HIGH_HZ,
                NUM_MEL_BANDS,
                SAMPLE_RATE_HZ,
                norm="slaney",
                mel_scale="slaney",
            )
        )

    def forward(self, power_N1FB: Tensor) -> Tensor:
        return 10.0 * torch.log10((power_N1FB @ self.melW).clamp(min=LEAST_POWER))


class _ConvBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)))


def _kernel_conv(kernels_BW: Tensor) -> nn.Conv1d:
    """One kernel a frequency bin, over a window of samples."""
    conv = nn.Conv1d(1, NUM_BINS, WINDOW, stride=HOP, bias=False)
    with torch.no_grad():
        conv.weight.copy_(kernels_BW[:, None])
    return conv
