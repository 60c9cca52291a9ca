from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import add_vectors
from transformers import MambaConfig, MambaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from capture.model import loading
from warehouse import TraceStore
from warehouse.errors import CorruptRunError, NotFoundError, UsageError
from warehouse.storage.paths import run_dir


@pytest.fixture(scope="module")
def store(tiny_root: Path) -> TraceStore:
    return TraceStore(run_dir(tiny_root, "llama"))


@pytest.fixture(scope="module")
def eid(store: TraceStore) -> str:
    return store.tokens.iloc[3]["example_id"]


def test_it_works_from_the_folder_alone(store: TraceStore, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(store.path, tmp_path / "renamed")
    again = TraceStore(copy)
    eid = store.tokens.example_id[0]
    assert np.array_equal(again.hidden(eid), store.hidden(eid))
    assert again.meta == store.meta
    assert "24 examples" in repr(again)


def test_one_row_an_example_in_the_datas_order(store: TraceStore, sample_lines: list[str]) -> None:
    assert list(store.tokens.text) == sample_lines
    for row in store.tokens.itertuples():
        assert len(row.input_ids) == len(row.tokens) == len(row.offsets) == len(row.losses) + 1


def test_encodings(store: TraceStore, eid: str) -> None:
    e = store.encodings(eid)
    row = store.tokens[store.tokens.example_id == eid].iloc[0]
    T = len(row.input_ids)
    assert e["input_ids"].tolist() == list(row.input_ids)
    assert e["attention_mask"].tolist() == [1] * T
    assert e["offset_mapping"].shape == (T, 2)
    assert [row.text[a:b] for a, b in e["offset_mapping"]] == e["tokens"]


def test_arrays_lists_every_site_with_its_shape(store: TraceStore, eid: str) -> None:
    arrays = store.arrays().set_index("site")
    eid = next(row.example_id for row in store.tokens.itertuples() if len(row.input_ids) not in (32, 64))
    assert set(arrays.index) == {
        "resid.embed", "resid.pre_attn", "resid.post_attn", "resid.post_mlp", "hidden", "q", "k", "v", "attn",
        "attn_out", "mlp_out", "mlp_act",
    }  # fmt: skip
    T = len(store.encodings(eid)["input_ids"])
    shapes = {
        "hidden": store.hidden(eid).shape,
        "q": store.qkv(eid, "q").shape,
        "k": store.qkv(eid, "k").shape,
        "v": store.qkv(eid, "v").shape,
        "attn": store.attn(eid).shape,
        **{name: getattr(store, name)(eid).shape for name in ("attn_out", "mlp_out", "mlp_act")},
        **{f"resid.{s}": store.resid(eid, s).shape for s in ("embed", "pre_attn", "post_attn", "post_mlp")},
    }
    for site, shape in shapes.items():
        assert arrays.loc[site, "shape"].replace(", from 2 heads", "") == str(shape).replace(f" {T}", " T").replace(
            f"({T}", "(T"
        ), site


def test_leaving_out_layer_or_head_gives_the_whole_axis(store: TraceStore, eid: str) -> None:
    m = store.meta.model
    for whole, part in (
        (store.attn(eid), lambda i, h: store.attn(eid, i, h)),
        (store.qkv(eid, "k"), lambda i, h: store.qkv(eid, "k", i, h)),
    ):
        for i in range(m.n_layers):
            for h in range(m.n_heads):
                np.testing.assert_allclose(whole[i, h], part(i, h), rtol=1e-6)
    assert np.array_equal(store.qkv(eid, "v", head=1), store.qkv(eid, "v")[:, 1])
    assert np.array_equal(store.hidden(eid, 2), store.hidden(eid)[2])
    for stage in ("pre_attn", "post_attn", "post_mlp"):
        assert np.array_equal(store.resid(eid, stage, 1), store.resid(eid, stage)[1])


def test_grouped_heads_are_repeated_for_each_query_head(store: TraceStore, eid: str) -> None:
    k = store.qkv(eid, "k", layer=0)
    assert np.array_equal(k[0], k[1]) and np.array_equal(k[2], k[3]) and not np.array_equal(k[1], k[2])


def test_the_stream_is_one_stream(store: TraceStore, eid: str) -> None:
    assert np.array_equal(store.resid(eid, "pre_attn", 0), store.resid(eid, "embed"))
    assert np.array_equal(store.resid(eid, "pre_attn", 2), store.resid(eid, "post_mlp", 1))
    assert np.array_equal(store.hidden(eid)[:-1], store.resid(eid, "pre_attn"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, e: s.hidden("feed"), NotFoundError, "No example 'feed'"),
        (lambda s, e: s.hidden(e[:-1]), NotFoundError, "Did you mean"),
        (lambda s, e: s.hidden(e, seq=1), NotFoundError, "No seq '1'"),
        (lambda s, e: s.encodings("feed"), NotFoundError, "No example 'feed'"),
        (lambda s, e: s.resid(e, layer=3), UsageError, "has layers 0 to 2"),
        (lambda s, e: s.resid(e, layer=-1), UsageError, "has layers 0 to 2"),
        (lambda s, e: s.hidden(e, layer=4), UsageError, "has layers 0 to 3"),
        (lambda s, e: s.attn(e, layer=0, head=4), UsageError, "has heads 0 to 3"),
        (lambda s, e: s.qkv(e, "w"), NotFoundError, "No tensor of attention 'w'"),
        (lambda s, e: s.resid(e, "post_atn"), NotFoundError, "Did you mean post_attn"),
        (lambda s, e: s.hidden(e, side="enc"), UsageError, "has no encoder side"),
        (lambda s, e: s.attn(e, kind="cross"), UsageError, "has no cross attention"),
        (lambda s, e: s.attn(e, kind="crss"), NotFoundError, "Did you mean cross"),
    ],
)
def test_what_is_not_there_is_said_by_name(store: TraceStore, eid: str, call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call(store, eid)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CorruptRunError, match="is not a run"):
        TraceStore(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptRunError, match="not valid JSON"):
        TraceStore(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 1}')
    with pytest.raises(CorruptRunError, match="run.json is not what it should be: run_id: Field required"):
        TraceStore(tmp_path)


def test_layers_of_several_shapes_are_told_and_read_one_at_a_time(
    tmp_path: Path, capture_tiny: Callable, tokenizer: PreTrainedTokenizerFast
) -> None:
    """OPT-350m's last state is projected to another width; heads may differ in number from layer to layer."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=4,
        ffn_dim=48, max_position_embeddings=128, do_layer_norm_before=False,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    loaded = loading.load(str(tmp_path / "opt"), device="cpu")
    opt = capture_tiny(tmp_path / "runs", "opt", loaded=loaded, capture="hidden")
    eid = opt.tokens.example_id[0]
    T = len(opt.tokens.input_ids[0])
    assert [opt.hidden(eid, i).shape for i in range(3)] == [(T, 32), (T, 32), (T, 16)]
    told = re.escape(f"has hidden of several shapes (({T}, 32) in layers 0-1, ({T}, 16) in layer 2): ask for one layer")
    with pytest.raises(UsageError, match=told):
        opt.hidden(eid)
    arrays = opt.arrays().set_index("site")
    assert arrays.loc["hidden", "shape"] == "(T, 32) in layers 0-1, (T, 16) in layer 2"
    assert arrays.loc["resid.post_mlp", "shape"] == "(2, T, 32)" and not arrays.note.any()

    q = {0: np.zeros((7, 4, 8), np.float16), 1: np.zeros((7, 2, 8), np.float16)}
    store = add_vectors(tmp_path / "runs", "heads", q, [3, 4], site="q", n_layers=2)
    assert store.qkv("e0001", "q", layer=1).shape == (2, 4, 8)
    assert list(store.arrays()["shape"]) == ["(4, T, 8) in layer 0, (2, T, 8) in layer 1"]
    with pytest.raises(
        UsageError, match=re.escape("made has q of several shapes ((4, 4, 8) in layer 0, (2, 4, 8) in ")
    ):
        store.qkv("e0001", "q")
    with pytest.raises(UsageError, match="head 2: made has heads 0 to 1"):
        store.qkv("e0001", "q", layer=1, head=2)


def test_keys_without_queries_have_the_shape_that_is_told(tmp_path: Path, capture_tiny: Callable) -> None:
    store = capture_tiny(tmp_path, capture="k")
    eid = store.tokens.example_id[0]
    shape = str(store.qkv(eid, "k").shape).replace(f" {len(store.tokens.input_ids[0])},", " T,")
    assert store.arrays()["shape"][0].replace(", from 2 heads", "") == shape


def test_states_that_begin_later_elsewhere_say_so(
    tmp_path: Path, capture_tiny: Callable, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Mamba's `output_hidden_states` have no entry for what enters the first layer."""
    torch.manual_seed(0)
    MambaForCausalLM(
        MambaConfig(vocab_size=len(tokenizer), hidden_size=16, state_size=4, num_hidden_layers=3)
    ).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    loaded = loading.load(str(tmp_path / "mamba"), device="cpu")
    store = capture_tiny(tmp_path / "runs", "mamba", loaded=loaded, capture="hidden", store_dtype="float32")
    (row,) = store.arrays().query("site == 'hidden'").itertuples()
    assert row.note == "transformers' output_hidden_states begin with hidden[1]" and not store.meta.model.embeds
    ids = torch.tensor([store.tokens.input_ids[0].tolist()])
    theirs = loaded.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    ours = store.hidden(store.tokens.example_id[0])
    for i in (0, 1):
        np.testing.assert_allclose(ours[i + 1], theirs[i][0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours[3], theirs[3][0].detach().numpy(), atol=1e-5)


def test_memory_of_what_was_read_is_given_back_and_read_again(tiny_root: Path, tmp_path: Path) -> None:
    import shutil

    store = TraceStore(
        shutil.copytree(run_dir(tiny_root, "llama"), tmp_path / "alone")
    )  # nobody else has these files open
    examples = list(store.tokens.example_id)
    before = [store.hidden(e) for e in examples]
    view = store.resid(examples[0], layer=1)
    kept = view.copy()
    if Path("/proc/self/smaps").exists():
        assert _resident(store.path) > 0
        store.release_pages()
        assert _resident(store.path) == 0
    store.release_pages()
    assert np.array_equal(view, kept), "what was returned stays as it is"
    assert all(np.array_equal(store.hidden(e), x) for e, x in zip(examples, before, strict=True))


def _resident(folder: Path) -> int:
    """Kilobytes of a run's files that are in this process's memory."""
    sizes, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            sizes.append(int(line.split()[1]))
    return sum(sizes)
