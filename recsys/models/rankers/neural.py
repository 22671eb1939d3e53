"""The neural ranker: TorchRec embeddings and DCN-v2 crosses over a request's candidates, two heads.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: logits `[R, C, 2]` of p(click), p(purchase).
"""

import json
from pathlib import Path
from typing import Self, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from recsys.arrays import Floats, Ints
from recsys.config import RankerConfig
from recsys.models.rankers.base import UNCHANGED, Lines, Ranker


class TorchRecRanker(nn.Module, Ranker):
    """Dense features and embeddings of categories, crossed (DCN-v2, Wang et al. 2021), then an MLP."""

    def __init__(self, config: RankerConfig, features: list[str], sizes: dict[str, int]) -> None:
        """`features` names the dense inputs, `sizes` the number of codes per categorical input."""
        super().__init__()
        self.config, self.features, self.sizes = config, features, sizes
        tables = [
            EmbeddingBagConfig(
                name=f"{name}_table",
                embedding_dim=config.embedding_width,
                num_embeddings=size,
                feature_names=[name],
                init_fn=lambda weight: nn.init.normal_(weight, std=0.01),
            )
            for name, size in sizes.items()
        ]
        self.embeddings = EmbeddingBagCollection(tables=tables, device=torch.device("cpu"))
        self.register_buffer("mean", torch.zeros(len(features)))
        self.register_buffer("deviation", torch.ones(len(features)))
        width = len(features) + config.embedding_width * len(sizes)
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        self.deep = nn.Sequential(
            nn.Linear(width, config.hidden), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, 2)
        )
        self.linear = nn.Linear(width, 2)
        for cross in self.crosses:
            nn.init.normal_(cross.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(cross.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_from(self, dense: Tensor, labels: Tensor) -> None:
        """Take each feature's mean and deviation from candidates `[n, F]`, the heads' base rates from `[n, 2]`.

        The listwise loss does not see the level of the logits, so that starting at 0 would leave
        the probabilities of a short training near a half.
        """
        self.mean.copy_(dense.mean(0))  # type: ignore[operator]
        self.deviation.copy_(dense.std(0).clamp(min=1e-3))  # type: ignore[operator]
        self.linear.bias.copy_(torch.logit(labels.mean(0).clamp(1e-6, 0.5)))

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        """Return logits `[R, C, 2]`."""
        return self._logits(self._scaled(dense), self._embedded(categorical))

    def _scaled(self, dense: Tensor) -> Tensor:
        return ((dense - self.mean) / self.deviation).clamp(-5, 5)  # type: ignore[operator]

    def _embedded(self, categorical: Tensor) -> Tensor:
        """Return the embeddings `[R, C, G · width]` of the codes."""
        shape = categorical.shape
        values = categorical.permute(2, 0, 1).reshape(-1)  # [G · R · C], one key after another
        feature = KeyedJaggedTensor.from_lengths_sync(
            list(self.sizes), values, torch.ones_like(values, dtype=torch.int32)
        )
        embedded: Tensor = (
            self.embeddings(feature).values().view(*shape[:2], len(self.sizes) * self.config.embedding_width)
        )
        return embedded

    def _logits(self, scaled: Tensor, embedded: Tensor) -> Tensor:
        start = torch.cat([scaled, embedded], -1)
        crossed = start
        for cross in self.crosses:
            crossed = start * cross(crossed) + crossed
        logits: Tensor = self.deep(crossed) + self.linear(start)
        return logits

    @torch.no_grad()
    def log_odds(self, dense: Floats, categorical: Ints) -> Floats:
        """Return the log odds of a click and of a purchase `[R, C, 2]`."""
        logits: Floats = self(torch.from_numpy(dense), torch.from_numpy(categorical)).numpy()
        return logits

    @torch.no_grad()
    def calibrate(self, lines: Lines) -> None:
        """Put slope · log odds + shift in the place of the log odds: the last layers are linear."""
        slopes, shifts = torch.tensor(lines).T
        for layer in (cast(nn.Linear, self.deep[-1]), self.linear):
            layer.weight.mul_(slopes[:, None])
            layer.bias.mul_(slopes)
        self.linear.bias.add_(shifts)

    def contributions(self, dense: Floats, categorical: Ints) -> Floats:
        """Return what each feature adds to the log odds of a click, `[R, C, F + G]` (gradient times input)."""
        scaled = self._scaled(torch.from_numpy(dense)).requires_grad_()
        embedded = self._embedded(torch.from_numpy(categorical)).detach().requires_grad_()
        click = self._logits(scaled, embedded)[..., 0].sum()
        of_dense, of_codes = (
            (tensor * grad).detach()
            for tensor, grad in zip((scaled, embedded), torch.autograd.grad(click, (scaled, embedded)), strict=True)
        )
        by_code = of_codes.unflatten(-1, (len(self.sizes), -1)).sum(-1)
        return torch.cat([of_dense, by_code], -1).numpy()

    def save(self, folder: Path) -> None:
        """Write `ranker.safetensors` and `ranker.json`."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "ranker.safetensors"
        )
        config = self.config.model_dump(mode="json")
        shape = {"config": config, "features": self.features, "sizes": self.sizes, "shown": self.shown}
        (folder / "ranker.json").write_text(json.dumps(shape, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        shape = json.loads((folder / "ranker.json").read_text(encoding="utf-8"))
        ranker = cls(RankerConfig.model_validate(shape["config"]), shape["features"], shape["sizes"])
        ranker.load_state_dict(load_file(folder / "ranker.safetensors"))
        ranker.shown = shape.get("shown", UNCHANGED)
        ranker.eval()
        return ranker
