"""Pictures of a run's losses and of the numbers of its layers: every number given is drawn once."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

import graphformer as gf
from graphformer.inspect import plot_losses, plot_parameters
from graphformer.training.parameters import read_parameters


def model(operator="gin", layers=3, heads=4, **options):
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=4 * heads,
        intermediate_size=7,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        operator=operator,
        **options,
    )
    made = gf.GraphformerForCausalLM(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def dots(axes):
    return [one.get_offsets().tolist() for one in axes.collections]


def lines(axes):
    return [np.column_stack(one.get_data()).tolist() for one in axes.lines]


def named(figure):
    return {axes.get_ylabel() + "/" + axes.get_xlabel(): axes for axes in figure.axes}


def test_of_a_model_each_head_is_a_dot_and_a_line_joins_the_means(tmp_path):
    one = model(["gin", "pna", "gin"])
    figure = plot_parameters(one, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    panels = named(figure)
    assert set(panels) == {r"$\alpha$/layer", r"$\varepsilon$/layer", r"$\delta$/layer"}
    layers = [layer.self_attn for layer in one.model.layers]
    alpha = [float(layer.sharpening.detach()) for layer in layers]
    axes = panels[r"$\alpha$/layer"]
    assert dots(axes) == [[[x, pytest.approx(value)] for x, value in enumerate(alpha)]]
    assert lines(axes) == dots(axes)
    # one a head, of the two GIN layers
    eps = [layers[k].operator.eps.tolist() for k in (0, 2)]
    axes = panels[r"$\varepsilon$/layer"]
    (found,) = dots(axes)
    assert len(found) == 8
    assert found == [[x, pytest.approx(v)] for x, values in enumerate(eps) for v in values]
    (line,) = lines(axes)
    assert line == [[x, pytest.approx(np.mean(values))] for x, values in enumerate(eps)]
    assert figure.get_size_inches()[0] == 7.0 and not axes.get_legend()


def test_several_models_share_the_panels_and_are_told_apart():
    figure = plot_parameters(
        {"trained": model(), "start": model(layers=2), "other": model("pna", 1)}
    )
    panels = named(figure)
    axes = panels[r"$\alpha$/layer"]
    assert [len(one) for one in dots(axes)] == [3, 2, 1]
    assert [len(one) for one in dots(panels[r"$\varepsilon$/layer"])] == [12, 8]
    told = [text.get_text() for text in panels[r"$\varepsilon$/layer"].get_legend().get_texts()]
    assert told == ["trained", "start"]
    colours = {one.get_color() for one in panels[r"$\varepsilon$/layer"].lines}
    assert len(colours) == 2


def test_over_a_run_each_layer_is_a_line(tmp_path):
    steps = [0, 10, 20, 25]
    values = {
        step: {f"l{k}": [step / 10 + k, step / 10 + k + 1] for k in range(5)} for step in steps
    }
    text = "".join(json.dumps({"step": s, "lambda": values[s]}) + "\n" for s in steps)
    (tmp_path / "parameters.jsonl").write_text(text + '{"step": 30, "lam')  # of a killed run
    assert [line["step"] for line in read_parameters(tmp_path)] == steps
    figure = plot_parameters(tmp_path)
    over_run, over_layers = figure.axes
    assert (over_run.get_xlabel(), over_layers.get_xlabel()) == ("step", "layer")
    assert lines(over_run) == [[[s, s / 10 + k + 0.5] for s in steps] for k in range(5)]
    assert len({one.get_color() for one in over_run.lines}) == 5
    assert [text.get_text() for text in over_layers.get_legend().get_texts()] == [
        "step 0",
        "step 25",
    ]
    assert [len(one) for one in dots(over_layers)] == [10, 10]
    assert lines(over_layers)[1] == [[k, 2.5 + k + 0.5] for k in range(5)]


def test_what_has_no_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^Linear has none of alpha, eps, lambda"):
        plot_parameters(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^source\['b'\]: Linear has none of alpha"):
        plot_parameters({"a": model(), "b": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="source holds no model"):
        plot_parameters({})
    with pytest.raises(ValueError, match=r"holds no parameters\.jsonl; give the folder of a run"):
        plot_parameters(tmp_path)
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl; give the folder of a finished"):
        plot_losses(tmp_path)
    with pytest.raises(ValueError, match="none of its 1 lines has a loss"):
        plot_losses([{"step": 3, "loss": float("nan")}])


def test_losses_are_drawn_at_their_steps(tmp_path):
    history = [
        {"loss": 3.0, "step": 5},
        {"loss": 2.0, "step": 10},
        {"eval_loss": 2.5, "step": 10},
        {"loss": 1.5, "step": 15},
        {"eval_loss": 2.75, "step": 15},
        {"train_runtime": 1.0, "step": 15},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in history)
    (tmp_path / "metrics.jsonl").write_text(text)
    for source in (history, tmp_path):
        (axes,) = plot_losses(source).axes
        assert lines(axes) == [
            [[5, 3.0], [10, 2.0], [15, 1.5]],
            [[10, 2.5], [15, 2.75]],
            [[10, 2.5]],
        ]
        told = [text.get_text() for text in axes.get_legend().get_texts()]
        assert told == ["training", "validation", "lowest, 2.5 at step 10"]
    (axes,) = plot_losses(history[:2]).axes  # without a validation set
    assert len(axes.lines) == 1
