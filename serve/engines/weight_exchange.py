"""What the workers of a vLLM engine do when its weights are exchanged for those of another model of the same shapes."""

from collections import defaultdict
from collections.abc import Iterator

import torch


class WeightExchange:
    """Mixed into vLLM's worker class by name (`worker_extension_cls`), so that the engine can call its method."""

    def exchange_weights(self, folder: str) -> None:
        """Load the weights of a folder, and prepare anew what vLLM 0.29 does not: layers without weights of their own.

        Its `reload_weights` only prepares the layers that it loads. An output layer whose weights are those of the
        embeddings (tied) is loaded with them; on a CPU it kept the copy that it had made for its kernel, and the
        engine went on answering with the output layer of the model before.
        """
        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined]
        for layer in tied_layers(self.model_runner.get_model()):  # type: ignore[attr-defined]
            if method := getattr(layer, "quant_method", None):
                method.process_weights_after_loading(layer)


def tied_layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The layers that have a weight in common with another one."""
    owners: dict[int, list[torch.nn.Module]] = defaultdict(list)
    for layer in model.modules():
        for weight in layer.parameters(recurse=False):
            if weight.numel():
                owners[weight.data_ptr()].append(layer)
    for layers in owners.values():
        if len(layers) > 1:
            yield from layers
