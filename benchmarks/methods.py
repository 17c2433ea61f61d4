"""What each method of the field costs beside plain attention, in the same layer.

A causal layer on tokens of width 256 with 4 heads, forward; and a layer on edges, 10,000 nodes,
40,000 edges, width 64, 4 heads, forward. CPU time, one thread, the least of interleaved rounds,
as a ratio to the same layer with the plain head.

    python -m benchmarks.methods            4,096 tokens; benchmarks/results/methods.json
    python -m benchmarks.methods --only rounds multi_hop    these again, the others as stored
    python -m benchmarks.methods --quick    short: does it run? Writes no result file
    python -m benchmarks.methods --docs     the stored results into docs/methods.md
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import graphformer as gf
from benchmarks import measure, report
from graphformer.attention.slot import KINDS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"


class Method(NamedTuple):
    """A row: a slot value, how it is asked for, what it says and what it costs in n tokens."""

    slot: str
    name: str
    arguments: dict[str, Any]
    formula: str
    source: str
    cost: str
    others: Mapping[str, Any] = MappingProxyType({})

    @property
    def head(self) -> gf.Head:
        value = {"name": self.name, **self.arguments}
        return gf.Head.from_spec({self.slot: value, **self.others})

    @property
    def file(self) -> Path:
        return Path(inspect.getfile(KINDS[self.slot][self.name])).relative_to(ROOT)


EVERY, NEAR, ROOT_OF = "n^2", "n w", "n sqrt n"
CUT = {"sparsify": {"name": "threshold", "tau": 0.01}}
METHODS = [
    Method("candidates", "window", {"size": 128}, "\\|i - j\\| < w", "", NEAR),
    Method(
        "candidates",
        "neighborhood",
        {"window": 255, "stride": 128},
        "groups of s see w places around their centre, on 1 to 3 axes",
        "2504.16922",
        NEAR,
    ),
    Method(
        "candidates",
        "either",
        {"first": {"name": "first", "number": 4}, "second": {"name": "window", "size": 128}},
        "first k or a window",
        "2309.17453",
        NEAR,
    ),
    Method("candidates", "prefix_lm", {"number": 64}, "j < k or j <= i", "1910.10683", EVERY),
    Method("candidates", "causal_blocks", {"size": 64}, "block of j <= block of i", "", EVERY),
    Method(
        "candidates",
        "clusters",
        {"num_clusters": 64},
        "query and key nearest to one centroid",
        "2003.05997",
        "n sqrt n",
    ),
    Method(
        "candidates",
        "indexer",
        {"k": 64},
        "the k senders of highest sum_m v_im relu(<a_im, b_j>)",
        "2512.02556",
        "n k, and n^2 of the index",
    ),
    Method(
        "candidates",
        "persistent",
        {"number": 16},
        "M more senders with learned keys and features",
        "1907.01470",
        "n M",
    ),
    Method(
        "candidates",
        "blocks",
        {"sizes": [64]},
        "own block's tokens, finished blocks' means; any number of levels",
        "",
        ROOT_OF,
    ),
    Method(
        "candidates",
        "weighed_blocks",
        {"sizes": [64]},
        "blocks, their tokens weighed by softmax <u_h, x_j>",
        "",
        ROOT_OF,
    ),
    Method(
        "candidates",
        "per_head",
        {"rules": [{"name": "window", "size": 128}, {"name": "all"}], "counts": [2, 2]},
        "a rule for each head",
        "",
        "its heads'",
    ),
    Method("score", "alibi", {}, "s - m_h \\|i - j\\|", "2108.12409", EVERY),
    Method("score", "distance_bias", {}, "s + b_h[bucket(i - j)]", "1910.10683", EVERY),
    Method(
        "score",
        "grid_bias",
        {"shape": [64, 64]},
        "s + b_h[p_j - p_i], places on 1 to 3 axes",
        "2103.14030",
        EVERY,
    ),
    Method("score", "qk_norm", {}, "a_h sqrt(d) <q / \\|q\\|, k / \\|k\\|>", "2010.04245", EVERY),
    Method("score", "ssmax", {}, "a_h log(n_i) s", "2501.19399", EVERY),
    Method("score", "forgetting", {}, "s + F_i - F_j", "2503.02130", EVERY),
    Method(
        "score",
        "decay",
        {},
        "lambda_h^(i - j) <q, k>",
        "2307.08621",
        "n",
        {"normalize": "identity"},
    ),
    Method("score", "query_network", {}, "q = x + W2 silu(W1 x)", "", EVERY),
    Method("score", "learned_query", {}, "<u_h, k_j>", "2405.13956", "n"),
    Method("score", "random_maps", {}, "frozen Q and K", "2510.11602", EVERY),
    Method(
        "score", "positions", {}, "sum_f a_f cos(w_f (i - j)) + b_f sin(...)", "2510.11602", EVERY
    ),
    Method("score", "gatv2", {}, "<u_h, leaky or tanh(q_i + k_j)>", "2105.14491", EVERY),
    Method("score", "additive", {}, "leaky(<a_h, v_i> + <b_h, v_j>)", "1710.10903", EVERY),
    Method("score", "differential", {}, "softmax(s1) - lambda_h softmax(s2)", "2410.05258", EVERY),
    Method("score", "echo", {}, "the weights of the layer before", "2409.14595", "0"),
    Method("normalize", "relu", {"by_count": True}, "max(s, 0) / n_i", "2309.08586", EVERY),
    Method("normalize", "sigmoid", {"bias": "count"}, "sigmoid(s - log n_i)", "2409.04431", EVERY),
    Method("normalize", "sigmoid_per_head", {}, "sigmoid(s + b_h)", "2409.04431", EVERY),
    Method("normalize", "softmax_sink", {}, "e^s / (e^b_h + sum e^s)", "Miller 2023", EVERY),
    Method("normalize", "sparsemax", {}, "max(s - tau_i, 0)", "1602.02068", EVERY),
    Method("normalize", "entmax15", {}, "max(s / 2 - tau_i, 0)^2", "1905.05702", EVERY),
    Method(
        "normalize", "fourier", {}, "a_0 + sum a_m cos(m s) + b_m sin(m s)", "2503.10632", EVERY
    ),
    Method(
        "normalize",
        "distance_scaled",
        {},
        "softmax(s) (1 + \\|i - j\\|)^-r_h",
        "2501.02393",
        EVERY,
    ),
    Method(
        "normalize",
        "regions",
        {"window": 16, "regions": 4, "size": 32},
        "softmax of W_h (means of s over regions), in a window",
        "2502.20087",
        NEAR,
        {"candidates": {"name": "window", "size": 128}},
    ),
    Method("sparsify", "threshold", {"tau": 0.02}, "w > tau", "2501.02393", EVERY),
    Method("sparsify", "top_k", {"k": 16}, "the k largest of a row", "2501.02393", EVERY),
    Method("sparsify", "top_fraction", {"fraction": 0.01}, "a share of a row", "2501.02393", EVERY),
    Method(
        "sparsify",
        "edge_mask",
        {},
        "largest a_h log w - c_h log(1 + \\|i - j\\|), trained by relaxed masks",
        "2312.05479",
        EVERY,
    ),
    Method(
        "sparsify",
        "extra_edges",
        {"rule": {"name": "window", "size": 3}, "keep": {"name": "threshold", "tau": 0.01}},
        "cut(w) or near, and there w + c_h",
        "",
        EVERY,
    ),
    Method(
        "features",
        "value_residual",
        {},
        "x_j + l (x_j of the first layer - x_j)",
        "2410.17897",
        "0",
    ),
    Method("operator", "gin", {}, "MLP_h(eps x_i + sum)", "2501.02393", EVERY),
    Method("operator", "pna", {}, "MLP_h[sum, mean, max, var]", "2501.02393", EVERY, CUT),
    Method("operator", "projected_self", {}, "y - tanh(a_h) (y along v_i)", "", EVERY),
    Method(
        "operator",
        "multi_hop",
        {"hops": 2},
        "sum_k c_hk A^k x, or GIN on it",
        "1905.00067",
        EVERY,
        CUT,
    ),
    Method(
        "operator",
        "rounds",
        {"rounds": 2},
        "x <- MLP_ht(eps x + A x) for t = 1..R",
        "1810.00826",
        EVERY,
        CUT,
    ),
    Method(
        "operator",
        "merged_heads",
        {},
        "sum_h softmax(m)_h A_h for all heads",
        "2501.02393",
        EVERY,
        CUT,
    ),
    Method(
        "operator",
        "sinc",
        {},
        "messages of receiver and sender",
        "2403.13781",
        EVERY,
        CUT,
    ),
    Method("operator", "gine", {}, "sum_j w_ij relu(x_j + W e_ij)", "1905.12265", EVERY, CUT),
    Method(
        "operator",
        "mixture",
        {"operators": ["sum", "gin"]},
        "sum_m softmax(a)_m operator_m",
        "1806.09055",
        EVERY,
    ),
    Method(
        "update",
        "experts",
        {},
        "E g_e(h)(x) out_h, k of E; from trained models by `upcycle`",
        "2408.08274",
        EVERY,
    ),
    Method(
        "update",
        "paired_difference",
        {},
        "out_h - sigma(W x)_h out_partner; or one output a pair",
        "",
        EVERY,
    ),
    Method("update", "head_norm", {}, "g_h out_h / rms(out_h)", "2307.08621", EVERY),
    Method("update", "gated_heads", {}, "H g_h(x) out_h", "2210.05144", EVERY),
    Method("update", "channel_gate", {}, "2 sigma(W x) out", "2505.06708", EVERY),
]
OF_ONE_SIZE = {"grid_bias"}
"""What tells the size of its grid: tokens are made one, the nodes of the timed graph are none."""
UNTIMED = {"echo"}
"""What a layer alone cannot have."""
REFUSED_ON_EDGES = {"forgetting", "query_network", "blocks", "weighed_blocks", "persistent"} | {
    one.name for one in METHODS if one.slot == "candidates" and one.head.candidates.absolute
}


def token_layer(head: gf.Head | None, length: int) -> measure.Step:
    torch.manual_seed(0)
    layer = gf.nn.SumAttention(256, 4, **({} if head is None else {"head": head})).eval()
    x = torch.randn(1, length, 256)
    more = {"first": torch.randn(1, 4, length, 64)} if layer.features.reads_first else {}

    def step() -> None:
        with torch.no_grad():
            layer(x, **more)

    return step


def edge_layer(head: gf.Head | None, nodes: int) -> measure.Step:
    torch.manual_seed(0)
    given = {} if head is None else {"head": head}
    conv = gf.nn.SumAttentionConv(64, 64, 4, **given).eval()
    x, index = torch.randn(nodes, 64), torch.randint(nodes, (2, 4 * nodes))
    more = {"first": torch.randn(1, 4, nodes, 16)} if conv.features.reads_first else {}

    def step() -> None:
        with torch.no_grad():
            conv(x, index, **more)

    return step


def run(length: int, nodes: int, rounds: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    found = []
    for method in METHODS:
        if method.name in UNTIMED or (only is not None and method.name not in only):
            continue
        head = method.head
        if method.name in OF_ONE_SIZE:
            side = 2 ** (length.bit_length() // 2)
            score = {"name": method.name, "shape": [side, length // side]}
            head = gf.Head.from_spec({**head.spec(), "score": score})
        if method.slot != "operator":  # the layers' own is plain attention's sum
            head = gf.Head.from_spec({**head.spec(), "operator": "sum"})
        steps = {"plain": token_layer(None, length), "method": token_layer(head, length)}
        if method.name not in REFUSED_ON_EDGES | OF_ONE_SIZE:
            steps |= {"plain edges": edge_layer(None, nodes), "edges": edge_layer(head, nodes)}
        least = {name: min(one) for name, one in measure.cpu_times(steps, rounds).items()}
        row = {"slot": method.slot, "name": method.name, "head": head.spec(), "seconds": least}
        found.append(row)
        print(method.name, f"{least['method'] / least['plain']:.2f}", flush=True)
    settings = {"length": length, "nodes": nodes, "rounds": rounds, "seed": 0}
    return {"environment": report.environment(), "settings": settings, "runs": found}


def table(content: dict[str, Any]) -> str:
    runs = {(one["slot"], one["name"]): one["seconds"] for one in content["runs"]}
    rows = []
    for method in METHODS:
        # a method that came after the last run has no numbers yet
        seconds = runs.get((method.slot, method.name), {})
        on_edges = "edges" in seconds and method.name not in REFUSED_ON_EDGES
        edges = f"{seconds['edges'] / seconds['plain edges']:.2f}" if on_edges else ""
        tokens = f"{seconds['method'] / seconds['plain']:.2f}" if seconds else ""
        laws = "t m" if method.name in REFUSED_ON_EDGES else "t m e g"
        lines = len((ROOT / method.file).read_text().splitlines())
        source = f"arXiv {method.source}" if method.source[:1].isdigit() else method.source
        rows.append(
            [
                method.slot,
                f"`{method.name}`",
                method.formula,
                source,
                f"{method.file.stem}.py, {lines}",
                laws,
                method.cost,
                tokens,
                edges,
            ]
        )
    header = ["slot", "name", "formula", "source", "file, lines", "laws", "cost", "tokens"]
    return report.table([*header, "edges"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short; writes no result file")
    names = sorted({one.name for one in METHODS})
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some methods")
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.name}, run nothing")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.docs:
        content = json.loads((options.results / "methods.json").read_text())
        page = PAGE.read_text()
        PAGE.write_text(report.filled(page, "methods", {"": table(content)}))
        return
    sizes = (128, 100, 1) if options.quick else (4096, 10_000, 3)
    content = run(*sizes, options.only)
    stored = options.results / "methods.json"
    if options.only is not None and not options.quick and stored.is_file():
        before = json.loads(stored.read_text())["runs"]
        others = [one for one in before if one["name"] not in options.only]
        content["runs"] = others + content["runs"]
    if not options.quick:
        report.save("methods", content, options.results)
    print(f"\n{table(content)}")


if __name__ == "__main__":
    main()
