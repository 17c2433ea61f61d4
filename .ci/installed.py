"""What an installed package must do by itself: run by the Python of an environment that holds the
wheel (or the source archive) and what it depends on, and nothing of the repository.

    python -I .ci/installed.py FOLDER      FOLDER: of the repository, which must not be what is read
"""

import subprocess
import sys
import tempfile
import time
from importlib import metadata, resources
from pathlib import Path


def check(what: str, holds: bool) -> None:
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        raise SystemExit(1)


def main(repository: Path) -> None:
    start = time.perf_counter()
    import graphformer as gf

    print(f"import graphformer: {time.perf_counter() - start:.2f} s")
    place = Path(gf.__file__).resolve()
    check(f"it is the installed one, {place}", repository / "graphformer" not in place.parents)
    check("its version is the package's", gf.__version__ == metadata.version("graphformer"))
    check(
        "types are told (py.typed)", resources.files("graphformer").joinpath("py.typed").is_file()
    )
    for extra in ("peft", "dgl", "matplotlib", "rdkit", "biotite", "skimage"):
        try:
            __import__(extra)
        except ImportError:
            continue
        check(f"the base install leaves {extra} out", False)

    import torch
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = gf.GraphformerConfig(vocab_size=65, num_attention_heads=4, threshold=0.05, **sizes)
    model = gf.GraphformerForCausalLM(config).eval()
    ids = torch.randint(65, (1, 12))
    out = model(ids, labels=ids, output_graphs=True)
    out.loss.backward()
    check("a language model has graphs", out.graphs[0].num_edges > 0)
    check("and generates", model.generate(ids, max_new_tokens=3).shape == (1, 15))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        check("and is read by AutoModel", torch.equal(again(ids).logits, model(ids).logits))
        llama = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(vocab_size=65, num_attention_heads=4, **sizes)
        ).eval()
        graphs = gf.inspect.graphs(llama, input_ids=ids)
        page = Path(folder, "page.html")
        graphs.report(page)
        check("a report is one page", page.stat().st_size > 10_000)
    ring = torch.arange(9)
    conv = gf.nn.GINAttentionConv(7, 32, heads=4)
    check(
        "a layer on edges",
        conv(torch.randn(9, 7), torch.stack((ring, ring.roll(1)))).shape[1] == 32,
    )
    try:
        gf.inspect.graphs(llama, input_ids=ids).to_pandas()
    except ImportError as error:
        check(f"what an extra has is told: {error}", "graphformer[viz]" in str(error))
    told = subprocess.run(
        [sys.executable, "-I", "-m", "graphformer", "--version"], capture_output=True, text=True
    )
    check(f"the command line answers: {told.stdout.strip()}", gf.__version__ in told.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
