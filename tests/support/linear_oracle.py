"""Mixers of linear cost written again from their equations: numpy, float64, one head, query and key at a time.

`w` maps names to arrays; names of dimensions as in the oracle of the other parts. `visible(i, j)`: query i may look at
key j; `real[j]`: token j is not padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from compress.model.linear.feature import FeatureMapSpec
from support.oracle import Array, Weights, activated, head, linear, turned, under

Visible = Callable[[int, int], bool]


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def features(spec: FeatureMapSpec | Any, w: Weights, x_K: Array, h: int, group: int, is_key: bool) -> Array:
    """phi of one query or key of head h, whose keys are those of the group."""
    if spec.kind == "elu":
        return np.where(x_K > 0, x_K + 1, np.exp(np.minimum(x_K, 0)))
    if spec.kind == "relu":
        return np.maximum(x_K, 0)
    if spec.kind == "t2r":
        return np.maximum(x_K @ w["weight_GKF"][group] + w["bias_GF"][group], 0)
    if spec.kind == "hedgehog":
        turned_F = x_K @ (w["key_GKF"][group] if is_key else w["query_HKF"][h])
        return np.concatenate([softmax(turned_F), softmax(-turned_F)])
    assert spec.kind == "performer"
    exponents_F = x_K @ w["rows_1KF"][0] - x_K @ x_K / 2
    return np.exp(exponents_F - (w["bound_G"][group] if is_key else exponents_F.max()))


def query_key(spec: Any, w: Weights, x_D: Array, place: int, h: int, loop: int) -> tuple[Array, Array, int]:
    """The scaled query and the key of head h that one token has, and the head's group."""
    if spec.kind == "merged":
        return head(linear(under(w, "query"), x_D, loop), h, len(x_D)), x_D, 0
    if spec.kind == "symmetric":
        u_K = head(linear(under(w, "shared"), x_D, loop), h, spec.head_dim)
        return u_K * w["signs_HK"][h] + w[f"offset.{loop}"][h], u_K, h
    group = h // (spec.num_heads // spec.num_kv_heads)
    query_K = head(linear(under(w, "query"), x_D, loop), h, spec.head_dim)
    key_K = head(linear(under(w, "key"), x_D, loop), group, spec.head_dim)
    if spec.rope is not None:
        query_K, key_K = turned(query_K, place, spec.rope.theta), turned(key_K, place, spec.rope.theta)
    return query_K * spec.scale, key_K, group


def linear_attention(spec: Any, w: Weights, x_ND: Array, visible: Visible, loop: int) -> Array:
    """Linear attention, or with a window the hybrid, over one sequence (N,D)."""
    window = getattr(spec, "window", 0)
    rows = []
    for i in range(len(x_ND)):
        y_D = np.zeros(x_ND.shape[1]) + under(w, "values.output").get(f"bias.{loop}", 0.0)
        for h in range(spec.scores.num_heads):
            query_K, _, group = query_key(spec.scores, under(w, "scores"), x_ND[i], i, h, loop)
            feature = under(w, "feature")
            phi_q = features(spec.feature, feature, query_K * spec.balance, h, group, is_key=False)
            weight = dict.fromkeys(range(len(x_ND)), 0.0)
            logits = {}
            for j in weight:
                _, key_K, _ = query_key(spec.scores, under(w, "scores"), x_ND[j], j, h, loop)
                if not visible(i, j):
                    continue
                if window and j > i - window:
                    logits[j] = float(query_K @ key_K)
                else:
                    phi_k = features(spec.feature, feature, key_K / spec.balance, h, group, is_key=True)
                    weight[j] = float(phi_q @ phi_k)
            gate = math.exp(w["gate_H"][h]) if window else 0.0
            for j, value in logits.items():
                weight[j] = gate * math.exp(value - max(logits.values()))
            total = max(sum(weight.values()), spec.eps)
            size = spec.values.head_dim
            mixed_V = np.zeros(size)
            for j, share in weight.items():
                mixed_V += share / total * head(linear(under(w, "values.value"), x_ND[j], loop), group, size)
            y_D = y_D + head(w["values.output.weight"].T, h, size).T @ mixed_V
        rows.append(y_D)
    return np.array(rows)


def linformer(spec: Any, w: Weights, x_ND: Array, real: list[bool], loop: int) -> Array:
    """Softmax over pools of tokens."""
    tokens = [j for j in range(len(x_ND)) if real[j]]
    rows = []
    for i in range(len(x_ND)):
        y_D = np.zeros(x_ND.shape[1]) + under(w, "values.output").get(f"bias.{loop}", 0.0)
        for h in range(spec.scores.num_heads):
            query_K, _, group = query_key(spec.scores, under(w, "scores"), x_ND[i], i, h, loop)
            logits, values = [], []
            for p in range(spec.pools):
                key_K, value_V = np.zeros(spec.scores.head_dim), np.zeros(spec.values.head_dim)
                shares = {
                    name: sum(abs(w[name][j, p]) for j in tokens) / sum(abs(w[name][:, p]))
                    for name in ("key_LP", "value_LP")
                }
                for j in tokens:
                    _, one_K, _ = query_key(spec.scores, under(w, "scores"), x_ND[j], j, h, loop)
                    one_V = head(linear(under(w, "values.value"), x_ND[j], loop), group, spec.values.head_dim)
                    key_K += w["key_LP"][j, p] / shares["key_LP"] * one_K
                    value_V += w["value_LP"][j, p] / shares["value_LP"] * one_V
                logits.append(float(query_K @ key_K) + w["offset_P"][p] + math.log(shares["key_LP"]))
                values.append(value_V)
            mixed_V = softmax(np.array(logits)) @ np.array(values)
            y_D = y_D + head(w["values.output.weight"].T, h, spec.values.head_dim).T @ mixed_V
        rows.append(y_D)
    return np.array(rows)


def sumformer(spec: Any, w: Weights, x_ND: Array, visible: Visible, loop: int) -> Array:
    """Each token's answer to the mean of what it sees."""

    def affine(name: str, x: Array) -> Array:
        return linear(under(w, name), x, loop)

    rows = []
    for i, x_D in enumerate(x_ND):
        heard = [
            affine("say", x_ND[j]) + affine("say_down", activated(spec.activation, affine("say_up", x_ND[j])))
            for j in range(len(x_ND))
            if visible(i, j)
        ]
        mean_S = np.mean(heard, axis=0) if heard else np.zeros(spec.summary_size)
        inner = activated(spec.activation, affine("own_up", x_D) + affine("hear_up", mean_S))
        rows.append(affine("own", x_D) + affine("hear", mean_S) + affine("down", inner))
    return np.array(rows)


def gated(spec: Any, w: Weights, x_ND: Array, real: list[bool], loop: int) -> Array:
    """Gated linear attention, or the gated delta rule, token by token."""
    groups, size = spec.values.num_kv_heads, spec.values.head_dim
    delta = spec.kind == "gated-delta-rule"
    memory: list[Any] = [None] * groups
    rows = []
    for i, x_D in enumerate(x_ND):
        y_D = np.zeros(len(x_D)) + under(w, "values.output").get(f"bias.{loop}", 0.0)
        keep_G = 1 / (1 + np.exp(linear(under(w, "gate"), x_D, loop)))
        for h in range(spec.scores.num_heads):
            query_K, key_K, group = query_key(spec.scores, under(w, "scores"), x_D, i, h, loop)
            phi_q, phi_k = (
                features(spec.feature, under(w, "feature"), one_K, h, group, is_key)
                for one_K, is_key in ((query_K * spec.balance, False), (key_K / spec.balance, True))
            )
            value_V = head(linear(under(w, "values.value"), x_D, loop), group, size)
            if delta:
                phi_q, phi_k = (phi / max(np.sqrt(phi @ phi), 1e-6) for phi in (phi_q, phi_k))
                strength = 1 / (1 + np.exp(-linear(under(w, "strength"), x_D, loop)[group]))
            else:
                value_V = np.append(value_V, 1.0)
            if memory[group] is None:
                memory[group] = np.zeros((len(phi_k), len(value_V)))
            first = h % (spec.scores.num_heads // groups) == 0  # a group's memory changes once a token
            if real[i] and first:
                memory[group] = keep_G[group] * memory[group]
                added_V = strength * (value_V - phi_k @ memory[group]) if delta else value_V
                memory[group] = memory[group] + np.outer(phi_k, added_V)
            read_V = phi_q @ memory[group]
            mixed_V = read_V if delta else read_V[:-1] / max(read_V[-1], spec.eps)
            y_D = y_D + head(w["values.output.weight"].T, h, size).T @ mixed_V
        rows.append(y_D)
    return np.array(rows)
