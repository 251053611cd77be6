"""What is left of a config.json when its family has read it: options without effect on the answers, options that have
one and that the family does not know, and names that nothing here knows."""

from __future__ import annotations

import re
from collections.abc import Callable

from compress.families.checkpoint import Checkpoint, Config
from targets.errors import InputError

#: Options that change no answer of a trained model: how it was made, trained, saved or is served, and ids of tokens.
_HARMLESS = re.compile(
    r"_.*|architectures|model_type|transformers_version|(torch_)?dtype|transformers\.js_config|auto_map|name|language"
    r"|.*drop(out|_path)?(_prob|_p|_rate|_ratio)?|dropout_.*|.*_?pdrop|.*initializer_(range|factor|cutoff_factor)|init_std|.*_init|.*_std"
    r"|(bos|eos|pad|sep|cls|unk|mask|decoder_start|image|video|audio|boi|eoi)_token_(id|index)|.*_token_id"
    r"|use_cache|cache_implementation|gradient_checkpointing|output_(attentions|hidden_states|past|scores)"
    r"|return_dict(_in_generate)?|torchscript|tokenizer_class|processor_class|prefix|id2label|label2id|num_labels|problem_type"
    r"|finetuning_task|task_specific_params|quantization_config|pruned_heads|is_encoder_decoder|tie_encoder_decoder"
    r"|chunk_size_feed_forward|use_return_dict|use_bfloat16|pretraining_tp|rope_interleaved|is_llama_config"
    r"|max_window_layers|unsloth_\w+|custom_pipelines|sentence_transformers|adapters|bad_words_ids|generation_config"
    r"|(do_sample|early_stopping|length_penalty|max_length|min_length|num_beams|num_beam_groups|num_return_sequences"
    r"|no_repeat_ngram_size|repetition_penalty|temperature|top_k|top_p|typical_p|diversity_penalty|remove_invalid_values"
    r"|forced_(bos|eos)_token_id|suppress_tokens|begin_suppress_tokens|exponential_decay_length_penalty"
    r"|encoder_no_repeat_ngram_size)|label_smoothing|classifier_(dropout|bias)|mlm_probability|loss_\w+|\w+_loss(_\w+)?"
    r"|directionality|pooler_(fc_size|num_attention_heads|num_fc_layers|size_per_head|type)|summary_\w+|n_ctx"
    r"|max_position_embeddings|tie_word_embeddings|layerdrop|apply_layernorm_.*_training|gradient_.*|attn_implementation|encoder_stride|mask_(ratio|time|feature)\w*"
    r"|use_mask_token|out_(features|indices)|stage_names|apply_layernorm|reshape_hidden_states|pool_scales|vocab_size|train_\w+|do_stable_layer_norm"
    r"|original_max_position_embeddings|use_bias|semantic_loss_\w+|auxiliary_\w+|use_auxiliary_head|max_seq_len|seq_length|model_max_length|vocab_file|language_model\w*"
    r"|reference_compile|repad_logits_with_grad|deterministic_flash_attn|decoder_bias|sparse_\w+|cls_index|output_router_logits"
    r"|router_aux_loss_coef|trigram_input|legacy|static_position_embeddings|reordering|sinusoidal_pos_embds|resid\w*"
)
#: Options that change what some model computes -> the values at which they do not.
_MATTERS: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_bias": (False, True),  # read off the weights
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "clip_qkv": (),
    "conv_pos": (),
    "do_layer_norm_before": (True,),
    "embedding_multiplier": (1, 1.0),
    "embedding_size": (),
    "final_logit_softcapping": (),
    "full_attention_interval": (),
    "hidden_activation": (),
    "interleave": (False,),
    "is_decoder": (False,),
    "kv_lora_rank": (),
    "layer_scale_init_value": (),
    "layer_types": (),
    "linear_num_key_heads": (),
    "local_attention": (),
    "logits_scaling": (1, 1.0),
    "logit_scale": (1, 1.0),
    "mlp_bias": (False, True),  # read off the weights
    "multi_query": (False,),
    "n_routed_experts": (),
    "new_decoder_architecture": (False,),
    "no_rope_layer_interval": (),
    "no_rope_layers": (),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "num_register_tokens": (0,),
    "parallel_attn": (False,),
    "partial_rotary_factor": (1, 1.0),
    "position_biased_input": (True,),
    "position_embedding_type": ("absolute",),
    "q_lora_rank": (),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "query_pre_attn_scalar": (),
    "relative_attention": (False,),
    "residual_multiplier": (1, 1.0),
    "rope_parameters": (),
    "rope_scaling": (),
    "rotary_pct": (1, 1.0),
    "scale_embedding": (False,),
    "sliding_window": (),
    "use_bidirectional_attention": (False,),
    "use_parallel_residual": (False,),
    "use_qk_norm": (False,),
    "use_relative_position_bias": (False,),
    "use_sliding_window": (False,),
    "use_swiglu_ffn": (False,),
}
#: What follows the stem of a family in the name of a class.
_CLASS = re.compile(r"(for|model|mtmodel|lmhead|doubleheads|textmodel|encodermodel|visionmodel|preTraining)", re.I)


def check_options(checkpoint: Checkpoint, note: Callable[[str], None]) -> None:
    """Raises InputError for an option that changes what a model computes and that the family did not look at. Names
    that nothing here knows go to `note`."""
    assert isinstance(checkpoint.config, Config)
    where, kind = f"{checkpoint.folder}/config.json", checkpoint.config["model_type"]
    unknown = []
    for name, value in sorted(checkpoint.config.unread().items()):
        if value is None or _HARMLESS.fullmatch(name):
            continue
        if name not in _MATTERS:
            unknown += [] if value is False or value == [] or value == {} else [name]
        elif value not in _MATTERS[name]:
            raise InputError(
                f"{where}: {name} = {str(value)[:60]} changes what the model computes, and nothing reads it for a "
                f"{kind!r} model here; is it of another model_type?"
            )
    if unknown:
        note(f"config.json: not known for a {kind} model, and left: {', '.join(unknown)}")


def check_class(checkpoint: Checkpoint, stems: tuple[str, ...]) -> None:
    """Raises InputError where `architectures` names a class of another family than `model_type` does."""
    classes = checkpoint.config.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    bare = first.lower().replace("_", "").replace("-", "")
    kind = str(checkpoint.config["model_type"])
    wanted = (kind.replace("_", "").replace("-", ""), *stems)
    if not first or any(bare.startswith(stem) and _CLASS.match(bare[len(stem) :]) for stem in wanted):
        return
    raise InputError(
        f"{checkpoint.folder}/config.json: architectures names {first}, which is not a class of model_type {kind!r}; "
        "put back the model_type that the model was saved with"
    )
