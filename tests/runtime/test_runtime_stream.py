"""Streams: the same answers in any chunks, states that survive sleep and errors, text that follows its seed."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.onnx_model import export_onnx
from runtime.session import open_bundle
from runtime.streams.chunking import check_chunking
from runtime.streams.stream import CHUNK, Stream
from runtime.texts.generate import Sampling, generate, next_probabilities
from targets.errors import GateFailed, InputError


class Adder(torch.nn.Module):
    """Says of each token the sum of all real ones so far, from a running sum and from a cache of all, and its place."""

    def forward(self, inputs):
        ids_BN, mask_BM = inputs["input_ids"].float(), inputs["attention_mask"].float()
        tokens = ids_BN.shape[1]
        real_BN = mask_BM[:, -tokens:]
        added_BN = (ids_BN * real_BN).cumsum(dim=1)
        total_BN = inputs["past_0_sum"] + added_BN
        cache_B1M1 = torch.cat([inputs["past_key_values.1.key"], (1 / ids_BN)[:, None, :, None]], dim=2)
        from_cache_BM = (mask_BM / cache_B1M1[:, 0, :, 0]).cumsum(dim=1)[:, -tokens:]
        logits_BN3 = torch.stack([total_BN, from_cache_BM, inputs["position_ids"].float()], dim=-1)
        return logits_BN3, total_BN[:, -1:], cache_B1M1


PAST = {"past_0_sum": [1], "past_key_values.1.key": [1, "past", 1]}
PRESENT = {"past_0_sum": "present_0_sum", "past_key_values.1.key": "present.1.key"}


@pytest.fixture(scope="module")
def adder_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("adder") / "model.onnx"
    tokens = {0: "batch", 1: "chunk"}
    export_onnx(
        Adder(),
        {
            "input_ids": torch.ones(2, 3, dtype=torch.long),
            "attention_mask": torch.ones(2, 7, dtype=torch.long),
            "position_ids": torch.ones(2, 3, dtype=torch.long),
            "past_0_sum": torch.zeros(2, 1),
            "past_key_values.1.key": torch.ones(2, 1, 4, 1),
        },
        ["logits", *PRESENT.values()],
        {
            "input_ids": tokens,
            "attention_mask": {0: "batch", 1: "total"},
            "position_ids": tokens,
            "past_0_sum": {0: "batch"},
            "past_key_values.1.key": {0: "batch", 2: "past"},
        },
        path,
    )
    return path.read_bytes()


@pytest.fixture
def opened(maker, adder_file):
    """Opens the adder as a bundle; `chunk` is the longest one of its profile."""

    def make(name="adder", chunk=5, extra=b"", preprocessing=None):
        ids = [{"name": name, "dtype": "int64", "shape": ["batch", "chunk"]} for name in ("input_ids", "position_ids")]
        mask = {"name": "attention_mask", "dtype": "int64", "shape": ["batch", "total"]}
        folder = maker.write(
            name,
            files={"model.onnx": adder_file + extra},
            task="causal-lm",
            inputs=[*ids, mask],
            outputs=[{"name": "logits", "dtype": "float32", "shape": ["batch", "chunk", 3]}],
            state=[
                {"past": past, "present": PRESENT[past], "dtype": "float32", "shape": ["batch", *shape]}
                for past, shape in PAST.items()
            ],
            preprocessing=preprocessing,
            target={"name": "cpu-x86", "threads": 1, "profile": {"batch": [1, 1, 4], "chunk": [1, 1, chunk]}},
        )
        return open_bundle(folder)

    return make


def expected(ids_N):
    sums = np.cumsum(ids_N)
    return np.stack([sums, sums, np.arange(len(ids_N))], axis=-1)


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [3, 1, 8], [5, 7]])
def test_any_chunking_gives_the_same_and_long_chunks_are_split(opened, sizes):
    ids_N = np.arange(1, 13)
    stream = Stream(opened())
    assert stream.longest_chunk == 5
    parts = np.split(ids_N, np.cumsum(sizes)[:-1])
    given_ = np.concatenate([stream.outputs(part)[0] for part in parts])
    np.testing.assert_allclose(given_, expected(ids_N), rtol=1e-5)
    assert stream.tokens.tolist() == [12]


def golden_of(module, ids_BN):
    """golden.npz of the adder, or of one that is wrong."""
    arrays = {
        "input_ids": ids_BN,
        "attention_mask": np.ones_like(ids_BN),
        "position_ids": np.arange(ids_BN.shape[1])[None].repeat(len(ids_BN), axis=0),
        "past_0_sum": np.zeros((len(ids_BN), 1), np.float32),
        "past_key_values.1.key": np.zeros((len(ids_BN), 1, 0, 1), np.float32),
    }
    with torch.no_grad():
        outputs = module({name: torch.from_numpy(array) for name, array in arrays.items()})
    named = dict(zip(["logits", *PRESENT.values()], outputs, strict=True))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        **{f"input_{name}": array for name, array in arrays.items()},
        **{f"output_{name}": array.numpy() for name, array in named.items()},
        **{f"atol_{name}": np.float32(1e-3) for name in named},
    )
    return buffer.getvalue()


def test_the_selftest_feeds_recurrent_models_in_several_ways(opened, maker, run_module):
    session = opened()
    root = session.bundle.root
    (root / "golden.npz").write_bytes(golden_of(Adder(), np.arange(1, 6)[None]))
    maker.seal(root)
    done = run_module("runtime.selftest", root, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["streaming"]
    assert [row["length"] for row in rows] == [1, 7, 64, 333, 1000] and all(row["passed"] for row in rows)
    assert "ok  333 tokens in chunks: relative error" in run_module("runtime.selftest", root).stdout


def test_answers_that_depend_on_the_chunks_are_found(opened):
    stream = Stream(opened())
    stream.prefill([5])
    before = stream.save()
    assert all(check_chunking(stream, np.arange(1, 20), "fp32")) and stream.save() == before
    stream.fork = lambda: Forgetful(stream)
    results = check_chunking(stream, np.arange(1, 20), "fp32", longest=100)
    assert [one.length for one in results] == [1, 7, 64, 100] and [bool(one) for one in results] == [True, *[False] * 3]


class Forgetful(Stream):
    """Starts again at every call."""

    def __init__(self, stream):
        self.__dict__.update(stream.__dict__)

    def outputs(self, tokens, mask=None):
        self.reset()
        return super().outputs(tokens, mask)


def test_prefill_and_step_give_the_last_token(opened):
    stream = Stream(opened())
    np.testing.assert_allclose(stream.prefill(range(1, 8)), expected(np.arange(1, 8))[None, -1], rtol=1e-5)
    np.testing.assert_allclose(stream.step(8), expected(np.arange(1, 9))[None, -1], rtol=1e-5)
    stream.reset()
    np.testing.assert_allclose(stream.step([4]), [[4, 4, 0]], rtol=1e-5)


def test_padding_in_front_counts_for_nothing(opened):
    stream = Stream(opened(), batch=2)
    mask = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]])
    given_ = stream.outputs(np.full((2, 7), 3), mask)
    np.testing.assert_allclose(given_[0], expected(np.full(7, 3)), rtol=1e-5)
    np.testing.assert_allclose(given_[1, -1], [3, 3, 0], rtol=1e-5)
    np.testing.assert_allclose(stream.step([1, 2]), [[22, 22, 7], [5, 5, 1]], rtol=1e-5)
    assert stream.tokens.tolist() == [8, 2]


def test_forks_go_their_own_ways_and_rows_can_be_taken_again(opened):
    stream = Stream(opened(), batch=2)
    stream.prefill([[1, 2], [10, 20]])
    fork, beams = stream.fork(), stream.select([1, 1, 0])
    stream.step([1, 1])
    np.testing.assert_allclose(fork.step([2, 2])[:, 0], [5, 32])
    np.testing.assert_allclose(beams.step([5, 6, 7])[:, :2], [[35, 35], [36, 36], [10, 10]])
    np.testing.assert_allclose(stream.step([1, 1])[:, 0], [5, 32])


def test_a_saved_state_goes_on_elsewhere_with_the_same_bits(opened):
    stream, other = Stream(opened()), Stream(opened("other"))
    stream.prefill([3, 1, 4])
    data = stream.save()
    assert data == stream.save()
    other.load(data)
    assert np.array_equal(other.step(7), stream.step(7))
    assert other.tokens.tolist() == [4]


def forged(data, **changes):
    """The saved state with arrays replaced, or keys of its header, and a right checksum."""
    start = data.index(b"PK")
    with np.load(io.BytesIO(data[start:])) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    header.update({key: changes.pop(key) for key in list(changes) if key in header})
    arrays |= {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)} | changes
    return sealed(data, archive_of(**arrays))


def payload_of(data):
    return data[data.index(b"PK") :]


def header_of(data):
    with np.load(io.BytesIO(payload_of(data))) as archive:
        return archive["header"]


def odd_zip(payload):
    """An archive whose first member says that it is packed in a way that no reader knows."""
    entry = payload.index(b"PK\x01\x02")
    return payload[: entry + 10] + b"\x63\x00" + payload[entry + 12 :]


def archive_of(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def sealed(data, payload):
    """The saved state with another payload and its right checksum."""
    return data[: data.index(b"PK") - 32] + hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda data: b"", "not a saved state"),
        (lambda data: b"PK" + data, "not a saved state"),
        (lambda data: data[:-1], "truncated or damaged"),
        (lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "truncated or damaged"),
        (lambda data: sealed(data, b"not an archive"), "something else than a stream saves"),
        (lambda data: sealed(data, archive_of(other=np.zeros(1))), "something else than a stream saves"),
        (lambda data: sealed(data, archive_of(header=header_of(data))), "something else than a stream saves"),
        (lambda data: sealed(data, odd_zip(payload_of(data))), "something else than a stream saves"),
        (lambda data: forged(data, seen=np.zeros(3, np.int64)), "counts tokens of other sequences"),
        (lambda data: forged(data, real=np.zeros(3, np.int64)), "counts tokens of other sequences"),
        (lambda data: forged(data, format=2), "format 2, this edgepress reads 1"),
        (lambda data: forged(data, model="ab" * 32), "of another model file"),
        (lambda data: forged(data, batch=2), "has 2 sequences, this stream 1"),
        (lambda data: forged(data, **{"state past_0_sum": np.zeros((1, 2), np.float32)}), r"float32 \[1, 2\], not"),
        (lambda data: forged(data, **{"state past_0_sum": np.array([[np.nan]], np.float32)}), "NaN or infinity"),
    ],
)
def test_a_state_that_is_not_this_streams_is_refused_and_changes_nothing(opened, change, line):
    stream = Stream(opened())
    stream.prefill([1, 2, 3])
    before = stream.save()
    with pytest.raises(InputError, match=line) as caught:
        stream.load(change(before))
    assert "\n" not in str(caught.value)
    assert stream.save() == before


def test_a_state_of_another_model_is_refused(opened):
    stream, other = Stream(opened()), Stream(opened("other", extra=b"\x72\x00"))
    stream.prefill([1])
    with pytest.raises(InputError, match="of another model file"):
        other.load(stream.save())


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ([], "allowed: int64"),
        ([[1], [2]], "allowed: int64"),
        ([0.5], "float64"),
        ([[[1]]], "allowed: int64"),
        ([[1, 2], [3]], "have different lengths; pad them in front"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_and_change_nothing(opened, tokens, line):
    stream = Stream(opened())
    stream.prefill([1, 2, 3])
    before = stream.save()
    with pytest.raises(InputError, match=line):
        stream.prefill(tokens)
    with pytest.raises(InputError, match="mask has shape"):
        stream.prefill([1, 2], np.array([[1]]))
    with pytest.raises(InputError, match="padding behind tokens"):
        stream.prefill([1, 2], np.array([[1, 0]]))
    assert stream.save() == before


@pytest.mark.parametrize("token", [-1, 9])
def test_a_token_that_the_model_has_not_is_refused(opened, token):
    """ONNX's Gather takes -1 for the last row."""
    text = {"kind": "text", "vocab_size": 9, "max_length": 64, "pad_id": 0, "padding_side": "left"}
    session = opened(preprocessing=text)
    stream, ones = Stream(session), np.ones((1, 1), np.int64)
    stream.prefill([8])
    before = stream.save()
    with pytest.raises(InputError, match="allowed: 0 to 8"):
        stream.step(token)
    with pytest.raises(InputError, match="allowed: 0 to 8"):
        session.run({"input_ids": token * ones, "attention_mask": ones, "position_ids": ones})
    assert stream.save() == before


def test_an_answer_that_is_not_finite_leaves_the_state_as_it_was(opened):
    stream = Stream(opened())
    stream.prefill([1, 2, 3])
    before = stream.save()
    with pytest.raises(GateFailed, match="NaN or infinity"):
        stream.prefill([1, 1, 1, 1, 1, 0, 1])  # the second chunk divides by zero
    assert stream.save() == before


def test_a_state_given_by_hand_that_is_not_finite_is_named(opened):
    session = opened()
    ones = np.ones((1, 1), np.int64)
    inputs = {"input_ids": ones, "attention_mask": ones, "position_ids": ones}
    assert session.run(inputs)["present_0_sum"] == 1
    with pytest.raises(InputError, match="state 'past_0_sum' holds NaN or infinity"):
        session.run({**inputs, "past_0_sum": np.array([[np.inf]], np.float32)})


def test_a_chunk_beyond_the_profile_is_refused_where_a_stream_splits_it(opened):
    session = opened(chunk=5)
    ids_BN = np.arange(1, 8)[None]
    inputs = {"input_ids": ids_BN, "attention_mask": np.ones_like(ids_BN), "position_ids": np.arange(7)[None]}
    stream = Stream(session)
    with pytest.raises(InputError, match=r"a chunk has 7 tokens, the profile of cpu-x86 ends at 5; feed a .*Stream"):
        session.run(inputs)
    np.testing.assert_allclose(stream.outputs(ids_BN)[0], expected(ids_BN[0]), rtol=1e-5)
    first = session.run({name: array[:, :5] for name, array in inputs.items()})
    np.testing.assert_allclose(first["logits"][0], expected(ids_BN[0, :5]), rtol=1e-5)


def test_a_batch_beyond_the_profile_is_refused(opened):
    session = opened()
    with pytest.raises(InputError, match="batch is 5; allowed: 1 to 4"):
        Stream(session, batch=5)
    with pytest.raises(InputError, match="allowed: 1 to 4 of 0 to 0"):
        Stream(session).select([1])


def test_a_model_without_state_is_no_stream(bundle):
    with pytest.raises(InputError, match="has no state"):
        Stream(open_bundle(bundle))


def test_a_bundle_without_a_profile_takes_chunks_of_a_known_size(maker, opened):
    session = opened()
    maker.edit(session.bundle.root, target={"name": "cpu-x86", "threads": 1})
    assert Stream(open_bundle(session.bundle.root)).longest_chunk == CHUNK


# Generation


class Table:
    """A decoder whose next logits are a row of a table, and which remembers what it was fed."""

    def __init__(self, rows):
        self.rows, self.fed = rows, []

    def prefill(self, tokens):
        self.fed += list(tokens)
        return self.rows[self.fed[-1]][None]

    def step(self, token):
        return self.prefill([token])


logit_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(
    logits=logit_lists,
    temperature=st.floats(0.1, 5),
    top_k=st.one_of(st.none(), st.integers(1, 12)),
    top_p=st.one_of(st.none(), st.floats(0.01, 1)),
)
def test_probabilities_are_the_softmax_over_the_fewest_that_are_asked_for(logits, temperature, top_k, top_p):
    drawn = next_probabilities(np.array(logits), Sampling(temperature, top_k, top_p))
    whole = np.exp(np.array(logits) / temperature - max(logits) / temperature)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top_k]
    kept, mass = [], 0.0
    for token in order:
        if top_p is not None and mass >= top_p:
            break
        kept.append(token)
        mass += whole[token] / whole[order].sum()
    wanted = np.zeros(len(logits))
    wanted[kept] = whole[kept] / whole[kept].sum()
    if top_p is None or all(abs(mass - top_p) > 1e-9 for mass in np.cumsum(whole[order]) / whole[order].sum()):
        np.testing.assert_allclose(drawn, wanted, atol=1e-12)
    assert drawn.sum() == pytest.approx(1)


def test_greedy_takes_the_likeliest_and_stops_where_it_is_told():
    table = Table(np.array([[0, 2, 1], [0, 1, 2], [3, 1, 2]], np.float32))
    assert list(generate(table, [0], 5, Sampling())) == [1, 2, 0, 1, 2]
    assert table.fed == [0, 1, 2, 0, 1]  # the last one's successor is asked for by nobody
    assert list(generate(Table(table.rows), [0], 5, Sampling(), stop={0})) == [1, 2]
    assert list(generate(Table(table.rows), [0], 0, Sampling())) == []


def test_a_seed_gives_the_same_text_and_the_drawn_shares_are_the_models():
    table = np.log(np.array([[0.5, 0.3, 0.2]] * 3, np.float32))
    texts = [list(generate(Table(table), [0], 3000, Sampling(1.0, seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    np.testing.assert_allclose(np.bincount(texts[0]) / 3000, [0.5, 0.3, 0.2], atol=0.03)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"temperature": -1}, "temperature is -1; allowed: 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top-k is 0; allowed: 1 or more"),
        ({"top_p": 0.0}, "top-p is 0.0; allowed: above 0, at most 1"),
        ({"seed": -1}, "the seed is -1; allowed: 0 or more"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(options, line):
    with pytest.raises(InputError, match=line):
        Sampling(**options)


def test_the_smallest_temperature_is_greedy(recwarn):
    assert next_probabilities(np.array([1.0, 3.0, 2.0]), Sampling(5e-324)).tolist() == [0, 1, 0]
    assert not recwarn


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="the prompt is empty"):
        list(generate(Table(np.zeros((1, 1))), [], 1, Sampling()))


def test_no_step_of_eight_threads_on_one_stream_is_lost(opened):
    from concurrent.futures import ThreadPoolExecutor

    stream = Stream(opened())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda token: stream.step(token), [1] * 200))
    assert stream.tokens.tolist() == [200]
    alone = Stream(opened("other"))
    for _ in range(200):
        alone.step(1)
    for name, state in alone.states.items():
        np.testing.assert_allclose(stream.states[name], state, rtol=1e-5)


@pytest.mark.parametrize("header", [b"[" * 100_000, b"{}", b"[]", b'{"format": "x", "model": 1, "batch": 1}'])
def test_a_saved_state_with_an_odd_header_is_refused(opened, header):
    stream = Stream(opened())
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(header, np.uint8))
    payload = buffer.getvalue()
    with pytest.raises(InputError, match="something else than a stream saves"):
        stream.load(b"edgepress stream\n" + hashlib.sha256(payload).digest() + payload)
