"""Export to a folder that Hugging Face's `transformers` loads without code from the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gpt_core import files
from gpt_core.bridges import huggingface, model_card
from gpt_core.bridges.hf_tokenizer import WORD_PIECE, JsonTokenizer, tokenizer_json
from gpt_core.bridges.hf_tokenizer_import import read_tokenizer
from gpt_core.bridges.places import Place
from gpt_core.bridges.sample_prompt import shown_prompt
from gpt_core.bridges.self_check import Exported
from gpt_core.formats import safetensors
from gpt_core.generation.generator import sampled_ids
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress
from gpt_core.tokenizers import Tokenizer


def write_model(bundle: ModelBundle, folder: Path, _number_type: str, progress: Progress) -> tuple[str, ...]:
    """Write a model to a new folder.

    Raises:
        ExportError: The format cannot express the layers or the tokenizer.
        OSError: The folder cannot be written.
    """
    shape, tokenizer = bundle.settings.shape, bundle.tokenizer
    places = huggingface.places(shape)
    tokenizer_file = tokenizer_json(tokenizer)
    config = huggingface.config(shape, tokenizer) | {huggingface.DOCUMENT: bundle.settings.document}
    texts = {
        huggingface.CONFIG: _json(config),
        huggingface.GENERATION_CONFIG: _json(generation_config(bundle)),
        huggingface.TOKENIZER: _json(tokenizer_file),
        huggingface.TOKENIZER_CONFIG: _json(tokenizer_config(tokenizer_file, tokenizer, shape.seq_len)),
        huggingface.MODEL_CARD: model_card.model_card(bundle),
    }
    folder.mkdir()
    for name, text in texts.items():
        files.write_new(folder / name, [text.encode()])
    files.write_new(folder / huggingface.WEIGHTS, _weights(bundle.parameters, places, progress))
    return ()


def generation_config(bundle: ModelBundle) -> dict[str, Any]:
    """Return the contents of `generation_config.json`: the sampling settings of the run, and ids never generated.

    Learned positions end with the context, beyond which transformers raises an IndexError: unless a reply of the run's
    length leaves half of it for a prompt, the limit is that of prompt and reply together.
    """
    settings, tokenizer = bundle.settings, bundle.tokenizer
    most_new = min(settings.seq_len // 2, shown_prompt(bundle, settings.sample_prompt).room)
    is_short = settings.max_tokens <= most_new
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": settings.temperature,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
        }
    return {
        "bos_token_id": tokenizer.BOS,
        "eos_token_id": tokenizer.EOS,
        "pad_token_id": tokenizer.PAD,
        **({"max_new_tokens": settings.max_tokens} if is_short else {"max_length": settings.seq_len}),
        **sampling,
        "repetition_penalty": settings.repetition_penalty,
        "suppress_tokens": np.flatnonzero(~sampled_ids(tokenizer)).tolist(),
    }


def tokenizer_config(tokenizer_file: dict[str, Any], tokenizer: Tokenizer, seq_len: int) -> dict[str, Any]:
    """Return the contents of `tokenizer_config.json`. `<bos>` and the like in a text are text, as in training."""
    special = {token["id"]: token["content"] for token in tokenizer_file["added_tokens"]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "model_input_names": ["input_ids", "attention_mask"],  # GPT-2 adds embeddings of token_type_ids, if it gets any
        "bos_token": special[tokenizer.BOS],
        "eos_token": special[tokenizer.EOS],
        "unk_token": special[tokenizer.UNK],
        "pad_token": special[tokenizer.PAD],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }


def read_back(folder: Path) -> Exported:
    """Read what `write_model` has written."""
    contents = (folder / huggingface.CONFIG).read_bytes()
    kind = huggingface.CONFIGS[msgspec.json.decode(contents)["model_type"]]
    config = msgspec.json.decode(contents, type=kind)
    parameters = Parameters(config.shape)
    with files.open_regular(folder / huggingface.WEIGHTS) as file:
        head = safetensors.read_header(file)
        layout = safetensors.decode_layout(head)
        for place in huggingface.places(config.shape):
            view = place.view(parameters[place.parameter])
            values = np.empty(view.shape, np.float32)
            entry = layout[huggingface.stored_name(place, config.shape)]
            safetensors.read_tensor(file, len(head), entry, values.reshape(-1).view(np.uint8), lambda _: None)
            view[...] = values
    return Exported(parameters, _read_encoder(folder, config), any_bytes=False)


def _read_encoder(folder: Path, config: huggingface.ModelConfig) -> Callable[[bytes], Sequence[int]]:
    """Return the function that encodes text as the `tokenizer.json` of a folder says."""
    contents = (folder / huggingface.TOKENIZER).read_bytes()
    if json.loads(contents)["model"]["type"] == WORD_PIECE:
        return JsonTokenizer(contents).encode
    tokenizer = read_tokenizer(folder, config)
    return lambda text: tokenizer.encode(text).tolist()


def _weights(parameters: Parameters, places: Sequence[Place], progress: Progress) -> Iterator[bytes | memoryview]:
    """Yield the bytes of `model.safetensors`; `format` is what older versions of transformers require."""
    views = {huggingface.stored_name(place, parameters.shape): place.view(parameters[place.parameter])
             for place in places}  # fmt: skip
    layout = safetensors.layout_of((name, "F32", view.shape) for name, view in views.items())
    yield safetensors.encode_header(layout, {"format": "pt"})
    total, done = safetensors.data_bytes(layout), 0
    for view in views.values():
        progress(f"writing {huggingface.WEIGHTS}", done / total)
        yield np.ascontiguousarray(view).reshape(-1).view(np.uint8).data
        done += view.nbytes


def _json(contents: dict[str, Any]) -> str:
    return json.dumps(contents, ensure_ascii=False, indent=2) + "\n"
