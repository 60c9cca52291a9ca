"""Tiny random models of every family transformers knows: a curated table for tests, the whole catalogue for sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

Kind = Literal["causal", "masked", "seq2seq"]
Fields = dict[str, Any]

MAX_PARAMETERS = 20_000_000

_IDS: Fields = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BODY: Fields = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_BERT: Fields = _BODY | {"intermediate_size": 64, "max_position_embeddings": 128}
_LLAMA: Fields = _BERT | _IDS | {"num_key_value_heads": 2}
_GPT2: Fields = _IDS | {"vocab_size": 400, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
_MAMBA2: Fields = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
_T5: Fields = {
    "vocab_size": 400,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
_BART: Fields = {
    "vocab_size": 400,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
}
_XLM: Fields = {"vocab_size": 400, "emb_dim": 32, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 128}
_DEBERTA: Fields = _BERT | {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "max_relative_positions": 16,
    "position_biased_input": False,
}
_SLIDING_FULL = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Family:
    """A curated tiny model: which kind it is, the name of its class in transformers, and its config fields."""

    kind: Kind
    model: str
    config: Fields = field(default_factory=dict)


def _causal(model: str, config: Fields, **more: Any) -> Family:
    return Family("causal", model, config | more)


def _masked(model: str, config: Fields, **more: Any) -> Family:
    return Family("masked", model, config | more)


def _seq2seq(model: str, config: Fields, **more: Any) -> Family:
    return Family("seq2seq", model, config | more)


FAMILIES: dict[str, Family] = {
    "gpt2": _causal("GPT2LMHeadModel", _GPT2),
    "gpt_neox": _causal("GPTNeoXForCausalLM", _BERT | _IDS, use_parallel_residual=True),
    "gpt_neox_sequential": _causal("GPTNeoXForCausalLM", _BERT | _IDS, use_parallel_residual=False),
    "llama": _causal("LlamaForCausalLM", _LLAMA),
    "mistral": _causal("MistralForCausalLM", _LLAMA, head_dim=8, sliding_window=4),
    "mixtral": _causal("MixtralForCausalLM", _LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "qwen2": _causal("Qwen2ForCausalLM", _LLAMA),
    "qwen3": _causal("Qwen3ForCausalLM", _LLAMA, head_dim=16),
    "qwen3_moe": _causal(
        "Qwen3MoeForCausalLM",
        _LLAMA,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        mlp_only_layers=[1],
    ),
    "gemma": _causal("GemmaForCausalLM", _LLAMA, head_dim=16),
    "gemma2": _causal(
        "Gemma2ForCausalLM",
        _LLAMA,
        head_dim=16,
        query_pre_attn_scalar=12,
        sliding_window=4,
        layer_types=_SLIDING_FULL,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3_text": _causal(
        "Gemma3ForCausalLM", _LLAMA, head_dim=16, query_pre_attn_scalar=12, sliding_window=4, layer_types=_SLIDING_FULL
    ),
    "phi": _causal("PhiForCausalLM", _LLAMA),
    "phi3": _causal("Phi3ForCausalLM", _LLAMA, original_max_position_embeddings=128),
    "olmo2": _causal("Olmo2ForCausalLM", _LLAMA),
    "opt": _causal("OPTForCausalLM", _BODY, ffn_dim=64, max_position_embeddings=128, word_embed_proj_dim=32),
    "opt_350m": _causal(
        "OPTForCausalLM",
        _BODY,
        ffn_dim=64,
        max_position_embeddings=128,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    ),
    "starcoder2": _causal("Starcoder2ForCausalLM", _LLAMA, sliding_window=4),
    "stablelm": _causal("StableLmForCausalLM", _LLAMA, use_qkv_bias=True, qk_layernorm=True),
    "stablelm_parallel": _causal("StableLmForCausalLM", _LLAMA, use_parallel_residual=True),
    "cohere": _causal("CohereForCausalLM", _LLAMA, use_qk_norm=True, logit_scale=0.5),
    "granite": _causal(
        "GraniteForCausalLM",
        _LLAMA,
        embedding_multiplier=6.0,
        logits_scaling=4.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
    ),
    "smollm3": _causal("SmolLM3ForCausalLM", _LLAMA, no_rope_layer_interval=2, no_rope_layers=[1, 0, 1]),
    "gpt_oss": _causal(
        "GptOssForCausalLM",
        _LLAMA,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=4,
        layer_types=_SLIDING_FULL,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 32,
        },
    ),
    "deepseek_v3": _causal(
        "DeepseekV3ForCausalLM",
        _LLAMA,
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=4,
        topk_group=2,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
    ),
    "bert": _masked("BertForMaskedLM", _BERT),
    "roberta": _masked("RobertaForMaskedLM", _BERT, max_position_embeddings=130, pad_token_id=1),
    "distilbert": _masked(
        "DistilBertForMaskedLM",
        {"vocab_size": 400, "dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 128},
    ),
    "electra": _masked("ElectraForMaskedLM", _BERT, embedding_size=16),
    "albert": _masked("AlbertForMaskedLM", _BERT, embedding_size=16),
    "modernbert": _masked(
        "ModernBertForMaskedLM",
        _BERT | _IDS,
        cls_token_id=1,
        sep_token_id=2,
        local_attention=8,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    ),
    "t5": _seq2seq("T5ForConditionalGeneration", _T5),
    "bart": _seq2seq("BartForConditionalGeneration", _BART),
    "bloom": _causal("BloomForCausalLM", _IDS, vocab_size=400, hidden_size=32, n_layer=3, n_head=4),
    "falcon": _causal(
        "FalconForCausalLM",
        _BODY | _IDS,
        num_kv_heads=2,
        new_decoder_architecture=True,
        ffn_hidden_size=64,
        max_position_embeddings=128,
    ),
    "falcon_mqa": _causal(
        "FalconForCausalLM",
        _BODY | _IDS,
        multi_query=True,
        new_decoder_architecture=False,
        parallel_attn=True,
        ffn_hidden_size=64,
        max_position_embeddings=128,
    ),
    "falcon_alibi": _causal(
        "FalconForCausalLM",
        _BODY | _IDS,
        multi_query=False,
        new_decoder_architecture=False,
        parallel_attn=False,
        alibi=True,
        bias=True,
        ffn_hidden_size=64,
        max_position_embeddings=128,
    ),
    "gptj": _causal("GPTJForCausalLM", _GPT2, rotary_dim=4),
    "gpt_neo": _causal(
        "GPTNeoForCausalLM",
        _IDS,
        vocab_size=400,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        window_size=4,
        attention_types=[[["global", "local", "global"], 1]],
    ),
    "codegen": _causal("CodeGenForCausalLM", _GPT2, n_ctx=128, rotary_dim=4),
    "mpt": _causal("MptForCausalLM", _IDS, vocab_size=400, d_model=32, n_heads=4, n_layers=3, max_seq_len=128),
    "xglm": _causal(
        "XGLMForCausalLM",
        {"vocab_size": 400, "d_model": 32, "ffn_dim": 64, "num_layers": 3, "attention_heads": 4},
        max_position_embeddings=128,
    ),
    "deberta-v2": _masked("DebertaV2ForMaskedLM", _DEBERTA, position_buckets=8, norm_rel_ebd="layer_norm"),
    "mamba": _causal(
        "MambaForCausalLM", _IDS, vocab_size=400, hidden_size=32, num_hidden_layers=3, state_size=8, time_step_rank=4
    ),
    "mamba2": _causal(
        "Mamba2ForCausalLM",
        _IDS,
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=3,
        num_heads=8,
        head_dim=8,
        state_size=8,
        n_groups=2,
        chunk_size=8,
    ),
    "jamba": _causal(
        "JambaForCausalLM",
        _LLAMA,
        num_hidden_layers=4,
        attn_layer_period=4,
        attn_layer_offset=2,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "bamba": _causal("BambaForCausalLM", _LLAMA | _MAMBA2, attn_layer_indices=[1]),
    "falcon_h1": _causal(
        "FalconH1ForCausalLM",
        _LLAMA | _MAMBA2,
        mamba_d_ssm=64,
        embedding_multiplier=4.0,
        lm_head_multiplier=0.5,
        mlp_multipliers=[0.8, 0.7],
        key_multiplier=0.9,
        attention_out_multiplier=0.6,
        ssm_multipliers=[0.9, 0.8, 0.7, 1.1, 1.2],
        ssm_out_multiplier=0.5,
    ),
    "recurrent_gemma": _causal(
        "RecurrentGemmaForCausalLM",
        _BODY | _IDS,
        intermediate_size=64,
        num_key_value_heads=2,
        lru_width=32,
        attention_window_size=4,
        block_types=["recurrent", "attention"],
    ),
    "rwkv": _causal(
        "RwkvForCausalLM",
        _IDS,
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=3,
        attention_hidden_size=32,
        intermediate_size=64,
        context_length=128,
    ),
    "mbart": _seq2seq("MBartForConditionalGeneration", _BART, scale_embedding=True),
    "pegasus": _seq2seq("PegasusForConditionalGeneration", _BART),
    "marian": _seq2seq(
        "MarianMTModel",
        _BART,
        decoder_vocab_size=400,
        pad_token_id=1,
        decoder_start_token_id=1,
        eos_token_id=0,
        forced_eos_token_id=0,
    ),
    "mt5": _seq2seq("MT5ForConditionalGeneration", _T5),
    "longt5": _seq2seq("LongT5ForConditionalGeneration", _T5, local_radius=3),
    "longt5_global": _seq2seq(
        "LongT5ForConditionalGeneration",
        _T5,
        local_radius=3,
        global_block_size=4,
        encoder_attention_type="transient-global",
    ),
    "led": _seq2seq(
        "LEDForConditionalGeneration",
        {k: v for k, v in _BART.items() if k != "max_position_embeddings"},
        max_encoder_position_embeddings=128,
        max_decoder_position_embeddings=128,
        attention_window=4,
    ),
    "gpt_bigcode": _causal("GPTBigCodeForCausalLM", _GPT2, multi_query=True),
    "glm": _causal("GlmForCausalLM", _LLAMA, head_dim=16),
    "glm4": _causal("Glm4ForCausalLM", _LLAMA, head_dim=16),
    "nemotron": _causal("NemotronForCausalLM", _LLAMA, head_dim=8),
    "olmo": _causal("OlmoForCausalLM", _LLAMA, clip_qkv=1.0),
    "olmoe": _causal("OlmoeForCausalLM", _LLAMA, num_experts=4, num_experts_per_tok=2),
    "persimmon": _causal("PersimmonForCausalLM", _BERT | _IDS),
    "exaone4": _causal("Exaone4ForCausalLM", _LLAMA, sliding_window=4, layer_types=_SLIDING_FULL),
    "ernie4_5": _causal("Ernie4_5ForCausalLM", _LLAMA, head_dim=16, use_bias=True),
    "dbrx": _causal(
        "DbrxForCausalLM",
        _IDS,
        vocab_size=400,
        d_model=32,
        n_heads=4,
        n_layers=3,
        max_seq_len=128,
        attn_config={"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 10000.0},
        ffn_config={"hidden_size": 32, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    ),
    "jetmoe": _causal(
        "JetMoeForCausalLM", _LLAMA, kv_channels=8, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    ),
    "biogpt": _causal("BioGptForCausalLM", _BERT),
    "xlnet": _causal(
        "XLNetLMHeadModel",
        {"vocab_size": 400, "d_model": 32, "n_layer": 3, "n_head": 4, "d_head": 8, "d_inner": 64},
    ),
    "openai-gpt": _causal("OpenAIGPTLMHeadModel", _GPT2),
    "ctrl": _causal("CTRLLMHeadModel", _GPT2, dff=64),
    "bert-generation": _causal("BertGenerationDecoder", _BERT, is_decoder=True),
    "roformer": _masked("RoFormerForMaskedLM", _BERT, embedding_size=16),
    "mpnet": _masked("MPNetForMaskedLM", _BERT, max_position_embeddings=130),
    "camembert": _masked("CamembertForMaskedLM", _BERT, max_position_embeddings=130),
    "deberta": _masked("DebertaForMaskedLM", _DEBERTA),
    "convbert": _masked("ConvBertForMaskedLM", _BERT, embedding_size=16, conv_kernel_size=3),
    "nystromformer": _masked("NystromformerForMaskedLM", _BERT, num_landmarks=8, segment_means_seq_len=8),
    "big_bird": _masked("BigBirdForMaskedLM", _BERT, attention_type="original_full"),
    "funnel": _masked(
        "FunnelForMaskedLM",
        {"vocab_size": 400, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 2]},
    ),
    "xlm": _masked("XLMWithLMHeadModel", _XLM),
    "flaubert": _masked("FlaubertWithLMHeadModel", _XLM),
    "squeezebert": _masked("SqueezeBertForMaskedLM", _BERT, embedding_size=32),
    "mobilebert": _masked(
        "MobileBertForMaskedLM", _BERT, embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=2
    ),
    "ibert": _masked("IBertForMaskedLM", _BERT, max_position_embeddings=130),
    "esm": _masked(
        "EsmForMaskedLM",
        _BERT,
        max_position_embeddings=130,
        pad_token_id=1,
        mask_token_id=4,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
    ),
}


def kind(family: str) -> Kind:
    """Whether the curated `family` predicts the next token, masked tokens, or a target text from a source text."""
    return FAMILIES[family].kind


def build(family: str, seed: int = 0, **config: Any) -> PreTrainedModel:
    """The curated tiny model of `family`, random but the same for the same `seed`.

    `config` replaces fields of the family's config. The model is in eval mode, float32, without gradients, and none
    of its parameters is left at a neutral value: no bias is zero, no norm is one, no attention pattern is flat.
    """
    entry = FAMILIES[family]
    model = getattr(transformers, entry.model)
    return _instantiate(model, model.config_class(**(deepcopy(entry.config) | config)), seed)


def _instantiate(model: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A random `model` with that `config`, on the CPU; ValueError before anything is allocated if it would be big."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            size = sum(p.numel() for p in model(config).parameters())
        if size > MAX_PARAMETERS:
            raise ValueError(f"{model.__name__} would have {size:,} parameters, over {MAX_PARAMETERS:,}")
        torch.manual_seed(seed)
        made = model(config).float().eval().requires_grad_(False)
        _perturb(made, seed)
    return made


@torch.no_grad()
def _perturb(model: nn.Module, seed: int) -> None:
    """Moves every parameter of `model` off its neutral start, in place, the same way for the same `seed`.

    Biases, norms and matrices with one value throughout get noise of 0.1; lone vectors (sinks, gates, temperatures)
    noise of 0.5; embeddings and matrices are scaled up where they are so small that attention would be flat. Floating
    buffers that act as biases are treated alike.
    """
    noise = torch.Generator().manual_seed(seed)
    modules = list(model.modules())
    convolutions = {id(m.weight) for m in modules if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    embeddings = {id(m.weight) for m in modules if isinstance(m, nn.Embedding)}
    biases = [(name, b) for name, b in model.named_buffers() if name.endswith("bias") and b.numel() == max(b.shape)]
    for name, p in [*model.named_parameters(), *biases]:
        if not p.is_floating_point() or not p.numel():
            continue
        if p.numel() == max(p.shape, default=1):
            p.add_(torch.randn(p.shape, generator=noise), alpha=0.1 if name.endswith(("weight", "bias")) else 0.5)
            continue
        inputs = math.prod(p.shape[1:]) if id(p) in convolutions else p.shape[-1]
        target, std = 0.5 if id(p) in embeddings else max(inputs, 8) ** -0.5, p.std().item()
        if std < 1e-6:
            p.add_(torch.randn(p.shape, generator=noise), alpha=0.1 if p.any() else target)
        elif std < target:
            p.mul_(target / std)


_COMMON = {f.name for f in fields(PreTrainedConfig)}
_LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "num_encoder_layers"}
_SIZES: dict[str, int] = {
    name: size
    for size, names in {
        64: """hidden_size d_model n_embd dim emb_dim embed_dim embedding_dim embedding_size word_embed_proj_dim lru_width
            attention_hidden_size hidden_size_global out_hidden_size output_dim projection_dim d_latents projector_input_dim
            projector_output_dim vision_output_dim backbone_hidden_size projector_hidden_size input_embedding_size
            output_embedding_size prediction_head_size encoder_hidden_size output_hidden_size text_hidden_size
            cross_attention_hidden_size input_size audio_hidden_size""",
        96: """intermediate_size intermediate_size_mlp ffn_dim d_ff d_inner dff dim_ff n_inner encoder_ffn_dim
            decoder_ffn_dim ffn_hidden_size feed_forward_size dense_intermediate_size mlp_dim
            speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim prompt_mid_dim hidden_dim""",
        32: """moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size
            shared_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size
            hidden_size_per_layer_input router_hidden_size q_lora_rank kv_lora_rank o_lora_rank laurel_rank adapter_rank
            embedding_rank hc_lowrank intra_bottleneck_size image_size crop_size entity_emb_size shape_embed_dim
            pronunciation_embed_dim lang_embed_dim spkr_embed_dim unit_embed_dim upsample_initial_channel
            classifier_proj_size codebook_dim num_filters vector_quantization_hidden_dimension num_mel_bins
            downsample_hidden_size output_channels ple_embed_dim num_centroids upsample_groups
            ext_pw_out_channel depthwise_separable_out_channel nemo_conv_channels subsampling_conv_channels
            t2u_variance_predictor_embed_dim t2u_variance_predictor_hidden_dim""",
        16: """head_dim attention_head_dim d_head d_kv dim_head kv_channels attention_head_size v_head_dim
            qk_nope_head_dim qk_rope_head_dim index_head_dim swa_head_dim linear_key_head_dim linear_value_head_dim
            linear_head_dim mamba_d_head mamba_head_dim state_size mamba_d_state ssm_state_size mamba_dt_rank
            time_step_rank query_pre_attn_scalar d_rel rel_extent num_latents relative_max_distance
            relative_attention_max_distance position_bias_max_distance conv_kernel_size prompt_length""",
        8: """num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads mamba_n_heads
            mamba_num_heads index_topk patch_size chunk_size mamba_chunk_size local_attention num_landmarks
            segment_means_seq_len local_attn_chunk_length lsh_attn_chunk_length relative_attention_num_buckets
            num_buckets position_bias_num_buckets rotary_dim expert_capacity block_size mm_tokens_per_image
            mem_len local_radius num_quantizers zero_expert_num""",
        4: """num_attention_heads n_head n_heads num_heads attention_heads encoder_attention_heads
            decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads
            index_n_heads linear_num_key_heads linear_num_heads speech_encoder_attention_heads
            t2u_encoder_attention_heads t2u_decoder_attention_heads sliding_window sliding_window_size window_size
            attention_window attention_window_size attention_chunk_size local_attention_window_len keep_window_size
            index_topk_blocks index_block_size global_block_size moe_topk centroid_intermediate_top_k
            num_global_tokens conv_num_attention_heads conf_num_attention_heads""",
        2: """num_key_value_heads num_kv_heads swa_num_key_value_heads n_group num_expert_group o_groups mamba_n_groups
            n_groups num_experts_per_tok num_experts_per_token moe_k top_k_experts decoder_layers num_decoder_layers
            speech_encoder_layers t2u_encoder_layers t2u_decoder_layers num_layers_per_stack conf_num_hidden_layers
            num_blocks num_self_attends_per_block num_kv_shared_layers num_cross_attends_per_block depth
            num_adapter_layers num_hash""",
        1: "topk_group first_k_dense_replace num_nextn_predict_layers num_dense_layers moe_layer_start_index",
        128: """max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length
            max_source_positions max_target_positions max_encoder_position_embeddings max_decoder_position_embeddings
            t2u_max_position_embeddings mamba_d_ssm original_max_position_embeddings""",
        400: """vocab_size decoder_vocab_size src_vocab_size tgt_vocab_size vocab_size_per_layer_input audio_vocab_size
            codebook_size unpadded_vocab_size t2u_vocab_size unit_hifi_gan_vocab_size char_vocab_size entity_vocab_size
            encoder_hash_byte_group_vocab pronunciation_vocab_size shape_vocab_size ngram_vocab_size_base""",
    }.items()
    for name in names.split()
}
_SMALL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
_KV_SHARED: Fields = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
_GEMMA4: Fields = {"global_head_dim": 32}
_TWO_HYBRIDS: Fields = {
    "num_hidden_layers": 5,
    "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
}
_ROPE: Fields = {"rope_type": "default", "rope_theta": 10000.0}
_VIBEVOICE: Fields = {"depths": [1] * 7, "num_filters": 4}
_REFORMER: Fields = {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 48], "num_buckets": 4, "hash_seed": 0}
_EXPERTS: Fields = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1}

_OVERRIDES: dict[str, Fields] = {
    # the default config leaves these to the checkpoint
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "Dots1ForCausalLM": _EXPERTS,
    "HunYuanDenseV1ForCausalLM": {"head_dim": 16},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention", "conv"]},
    "MinistralForCausalLM": {"head_dim": 16, "layer_types": _SLIDING_FULL},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "XmodForMaskedLM": {"default_language": "en_XX"},
    "CohereCompassForCausalLM": {
        "layer_types": _SLIDING_FULL,
        "rope_parameters": {t: _ROPE | {"mrope_section": [4, 2, 2]} for t in set(_SLIDING_FULL)},
    },
    "Qwen4ExpForCausalLM": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    # the default config has one kind of layer only
    "GraniteMoeHybridForCausalLM": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "NllbMoeForConditionalGeneration": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    # a block that is used twice, or keys and values of an earlier layer
    "ZambaForCausalLM": _TWO_HYBRIDS,
    "Zamba2ForCausalLM": _TWO_HYBRIDS,
    "Gemma3nForCausalLM": _KV_SHARED | {"intermediate_size": 96, "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0]},
    "Gemma4ForCausalLM": _GEMMA4 | _KV_SHARED,
    # heads of another width in some layers
    "Gemma4ForConditionalGeneration": {"text_config": _GEMMA4},
    "Gemma4UnifiedForCausalLM": _GEMMA4,
    "Gemma4UnifiedForConditionalGeneration": {"text_config": _GEMMA4},
    "Dots3NoteForCausalLM": {
        "head_dim": 64,
        "per_layer_config": {
            2: {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 16, "qk_nope_head_dim": 48}
        },
    },
    # its logits are all but equal otherwise
    "InklingForCausalLM": {"logits_mup_width_multiplier": 1.0},
    # sizes that must agree with one another
    "MoshiForCausalLM": {"audio_vocab_size": 256, "audio_encoder_config": {"codebook_size": 256}},
    "ReformerForMaskedLM": _REFORMER,
    "ReformerModelWithLMHead": _REFORMER,
    "VibeVoiceAsrForConditionalGeneration": {
        "acoustic_tokenizer_encoder_config": _VIBEVOICE,
        "semantic_tokenizer_encoder_config": _VIBEVOICE,
    },
    "xLSTMForCausalLM": {"qk_dim_factor": 1.0},
    # several token streams in one batch otherwise
    "MusicgenForCausalLM": {"num_codebooks": 1},
    "MusicgenMelodyForCausalLM": {"num_codebooks": 1},
    # its cache reads a field its config lacks
    "BltForCausalLM": {"use_cache": False},
}


class Candidate(NamedTuple):
    """A class of transformers that reads and predicts text, the model type it goes by, and the class of its config."""

    model_type: str
    kind: Kind
    model: type[PreTrainedModel]
    config: type[PreTrainedConfig]


@cache
def candidates() -> list[Candidate]:
    """Every class in transformers' catalogues of causal, masked and sequence-to-sequence models, each once, sorted.

    A class that several catalogues list is of the last one's kind; one that the third lists although it has no
    encoder (speech models that continue a prompt) is causal.
    """
    catalogues: list[tuple[Kind, dict[str, str]]] = [
        ("causal", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        ("masked", modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        ("seq2seq", modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    ]
    found: dict[str, Candidate] = {}
    for catalogue, names in catalogues:
        for model_type, name in names.items():
            model = getattr(transformers, name)
            config = model.config_class
            of: Kind = "causal" if catalogue == "seq2seq" and not config.is_encoder_decoder else catalogue
            if name not in found or found[name].kind != of or model_type == config.model_type:
                found[name] = Candidate(model_type, of, model, config)
    return sorted(found.values(), key=lambda c: (c.model_type, c.model.__name__))


def shrunk(candidate: Candidate, seed: int = 0) -> PreTrainedModel:
    """A tiny random model of the candidate's class: the curated one where there is one, else its default made small.

    Everything `build` says of its models holds here too. Tokens from 5 to ten below the end of the vocabulary (400,
    or what the default has where that is less) mean nothing special. ValueError where even the small one would be big.
    """
    name = candidate.model.__name__
    for family, entry in FAMILIES.items():
        if entry.model == name:
            return build(family, seed)
    override = deepcopy(_OVERRIDES.get(name, {}))
    if candidate.kind == "causal" and any(f.name == "is_decoder" for f in fields(candidate.config)):
        override = {"is_decoder": True} | override
    return _instantiate(candidate.model, small_config(candidate.config, override), seed)


def small_config(of: type[PreTrainedConfig], override: Fields | None = None) -> PreTrainedConfig:
    """The default config of a class with every well-known size made small, and `override` (nested alike) on top."""
    default = of()
    vocabulary = min(_get(default.get_text_config(), "vocab_size") or 400, 400)
    return _small(default, override or {}, count(vocabulary - 1, -1))


def _small(default: PreTrainedConfig, override: Fields, ids: Iterator[int]) -> PreTrainedConfig:
    """`default` made small, sub-configs too; tokens that find no place in the vocabulary get the next of `ids`."""
    of = type(default)
    pristine = of()
    declared = {f.name: f.default for f in fields(of) if f.init and f.name not in _COMMON}
    layers, lists = _layers(default, list(declared))
    made: Fields = {}
    for name, raw in declared.items():
        value = _get(default, name)
        if isinstance(value, PreTrainedConfig):
            made[name] = _small(value, override.get(name, {}), ids)
        elif name in override:
            made[name] = override[name]
        elif name in lists:
            made[name] = lists[name]
        elif name.endswith(("_token_id", "_token_index")) and value is not None:
            made[name] = _token(name, value, ids)
        elif (raw is None or raw is MISSING) and value == _get(pristine, name):
            continue
        elif name in _LAYERS and isinstance(value, int):
            made[name] = min(value, layers)
        elif name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            made[name] = min(value, _SIZES[name])
        elif value != _get(pristine, name):
            made[name] = value
    heads = {_get(default, n) for n in ("num_attention_heads", "num_key_value_heads")}
    if len(heads) == 1 and made.get("num_key_value_heads") and "num_key_value_heads" not in override:
        made["num_key_value_heads"] = made["num_attention_heads"]
    return of(**(override | made))


def _get(config: PreTrainedConfig, name: str) -> Any:
    """A field of a config, None where it has none; the one for all layers where single layers say otherwise."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return vars(config).get(name)


def _token(name: str, value: Any, ids: Iterator[int]) -> Any:
    """A place in a vocabulary of 400 for a special token, or for a list of alternatives."""
    if name in _SMALL_TOKENS:
        small = _SMALL_TOKENS[name]
        if not isinstance(value, int):
            return [small]
        return value if value < 5 else small
    return next(ids)


def _layers(config: PreTrainedConfig, names: list[str]) -> tuple[int, dict[str, list[Any]]]:
    """How few layers show every kind of layer a config has, at least three, and its lists by layer cut to them."""
    total = _get(config, "num_hidden_layers")
    by_layer = {
        n: v for n in names if isinstance(v := _get(config, n), list) and len(v) == total and v != [*range(total)]
    }
    if not by_layer or total < 4:
        return 3, {}
    picked: dict[int, None] = {}
    seen: set[str] = set()
    for i in range(total):
        new = {f"{n} {v[i]}" for n, v in by_layer.items()} - seen
        if new:
            picked[i] = None
            seen |= new
    for i in range(total):
        if len(picked) < 3:
            picked[i] = None
    cut = sorted(picked)
    return len(cut), {
        n: [min(x, _SIZES[n]) if n in _SIZES and isinstance(x, int) else x for x in (v[i] for i in cut)]
        for n, v in by_layer.items()
    }
