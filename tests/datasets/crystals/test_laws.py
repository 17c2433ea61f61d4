"""What describes a crystal is not the crystal: images of atoms, supercells, cells and orientations
change nothing in what a network says of it. In float64.
"""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.datasets import crystal_graph
from graphformer.datasets.crystals.crystal import edge_names
from graphformer.datasets.crystals.elements import ELEMENT_NAMES
from tests.datasets.crystals import structures
from tests.datasets.crystals.structures import ALL, moved, other_cell, supercell, turned

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:data.pos is not read"),
]

WAYS = ({"cutoff": 4.5}, {"cutoff": 6.0, "neighbors": 12})


def network(**options):
    torch.manual_seed(3)
    made = gf.GraphTransformer(
        len(ELEMENT_NAMES),
        len(edge_names(5.0, 11)) if "edge_dim" not in options else options.pop("edge_dim"),
        hidden_size=24,
        num_layers=3,
        num_heads=3,
        out_dim=2,
        readout=("mean", "max"),
        **options,
    )
    for parameter in made.parameters():  # so that nothing starts at zero and hides a difference
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


NETWORKS = {
    "gin": {},
    "pna": {"operator": "pna"},
    "sum, sigmoid, cut": {
        "operator": "sum",
        "normalize": "sigmoid",
        "sparsify": gf.Threshold(0.02),
    },
    "restricted": {"refine": "restrict", "sparsify": gf.Threshold(0.02)},
}


def graph(crystal, way):
    return crystal_graph(crystal, gaussians=11, **way)


def answers(net, crystals, way):
    return net(Batch.from_data_list([graph(one, way) for one in crystals])).prediction


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_how_a_crystal_is_described_changes_nothing(name, way):
    net, random = network(**NETWORKS[name]), np.random.default_rng(1)
    crystals = [make() for make in ALL]
    want = answers(net, crystals, way).detach()
    assert float((want[:, None] - want[None]).abs().amax(-1).fill_diagonal_(9).min()) > 1e-3
    for change in (moved, other_cell, turned):
        got = answers(net, [change(one, random) for one in crystals], way)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9, msg=change.__name__)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_supercells_are_the_same_crystal(name, way):
    net, crystals = network(**NETWORKS[name]), [make() for make in ALL]
    want = answers(net, crystals, way)
    for times in ((2, 1, 1), (1, 3, 2)):
        got = answers(net, [supercell(one, times) for one in crystals], way)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    both = [structures.rock_salt(), structures.rock_salt_cubic()]
    primitive, conventional = answers(net, both, way)
    torch.testing.assert_close(primitive, conventional, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_supercells_have_the_same_environments(way):
    """Atom by atom: elements and distances of neighbours, and what the layers make of them."""
    for make in ALL:
        crystal = make()
        big = supercell(crystal, (2, 1, 1))
        small, large = graph(crystal, way), graph(big, way)
        count = len(crystal.elements)
        for copy in range(2 * count):
            mine, theirs = large.edge_index[1] == copy, small.edge_index[1] == copy % count
            rows = [
                sorted(
                    zip(
                        one.atomic_number[one.edge_index[0, which]].tolist(),
                        one.edge_attr[which, 0].tolist(),
                        strict=True,
                    )
                )
                for one, which in ((large, mine), (small, theirs))
            ]
            assert [z for z, _ in rows[0]] == [z for z, _ in rows[1]]
            # sorted by element and then distance, within rounding
            np.testing.assert_allclose(
                sorted(d for _, d in rows[0]), sorted(d for _, d in rows[1]), atol=1e-9
            )
        net = network(target="node")
        torch.testing.assert_close(
            net(large).prediction, net(small).prediction.repeat(2, 1), rtol=1e-9, atol=1e-9
        )


def test_an_edge_a_neighbour_with_its_parallels():
    """The heads' graphs hold every image, and one image more changes the answer."""
    data = graph(structures.copper(), {"cutoff": 2.6})
    assert data.edge_index.tolist() == [[0] * 12, [0] * 12]
    net = network(normalize="sigmoid")
    out = net(data, output_graphs=True)
    assert [one.num_edges for one in out.graphs] == [36] * 3
    assert [one.num_edges for one in out.refined] == [12] * 3
    fewer = Data(x=data.x, edge_index=data.edge_index[:, :11], edge_attr=data.edge_attr[:11])
    assert float((net(fewer).prediction - out.prediction).abs().max()) > 1e-3


def test_layers_with_other_candidates_keep_images_apart():
    """A layer that sees more pairs starts from each image's own weight, not from their sum."""
    data = graph(structures.triclinic(), {"cutoff": 4.5})
    nets = [
        network(candidates=one) for one in (("edges",) * 3, ("edges", "edges+k_hop:1", "edges"))
    ]
    extra = {"pair_features.0.kind"}
    nets[1].load_state_dict(nets[0].state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in nets[1].named_parameters():
            if name in extra:
                parameter.zero_()
    # every pair within one hop is given already: the lists differ, and the graphs do not
    torch.testing.assert_close(nets[1](data).prediction, nets[0](data).prediction)


def test_what_sees_no_images_is_refused():
    data = graph(structures.rock_salt(), {"cutoff": 4.5})
    for option in (
        {"candidates": "edges+knn:3"},
        {"candidates": "edges+radius:3.0"},
        {"encodings": ("distance:5",)},
    ):
        with pytest.raises(ValueError, match=r"sees no periodic images, and data\.cell says that"):
            network(**option)(data)
    del data.cell
    assert network(candidates="edges+knn:3")(data).prediction.shape == (1, 2)
