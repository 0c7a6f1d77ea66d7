"""Maps from spectra: counts stay counts, and amounts are right whatever the axis says."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

from helpers import io
from helpers.fusion import Scan, maps_from_spectra, read
from helpers.fusion.scan._lines import candidates, choose_line, table
from tests.unit.fusion.scan import spectra as simulated

AXIS = 0.01 * np.arange(1000)


def scan_of(cube, energies=AXIS, **more):
    return Scan({}, cube, energies, None, "px", None, {}, **more)


def taken(seed, scale=20, elements=("Ti", "Mn", "Fe", "O"), **axis):
    """A scan of 32 x 32 pixels, the photons drawn of each element, and the expected ones."""
    disc, stripes, oxygen = simulated.specimen(32)
    shapes = {"Ti": 3 * disc, "Mn": 2 * stripes, "Fe": 1.5 * disc, "O": oxygen, "Pd": 0.7 * stripes}
    amounts = {e: scale * shapes[e] for e in elements} | {"Cu": 0.3 * scale + 0 * disc}
    rng = np.random.default_rng(seed)
    cube, drawn = simulated.cube(rng, amounts, scale * (0.5 + disc), **axis)
    return scan_of(cube), drawn


# ---- amounts


@pytest.mark.parametrize("offset, gain", [(0, 1), (0.1, 1), (-0.1, 1), (0.05, 1.005)])
def test_an_axis_that_is_off_is_found_and_the_counts_are_right(offset, gain):
    """0.1 keV; 1 % of the counts, or five of their standard errors where these are larger."""
    scan, drawn = taken(0, 60, offset=offset, gain=gain)
    found = maps_from_spectra(scan, ["Ti", "Mn", "Fe", "O"])
    at = np.array([2.0, 7.0])
    said = (at - offset) / gain  # what the file calls these energies
    assert found.offset + found.gain * said == pytest.approx(at, abs=0.004)
    for element, (net, error) in found.totals.items():
        whole = net / found.fractions[element]
        assert whole == pytest.approx(drawn[element].sum(), rel=0.01, abs=5 * error), element


@pytest.mark.parametrize("seed", range(3))
def test_few_counts_are_right_within_their_error(seed):
    scan, drawn = taken(seed, 0.5, offset=0.1)
    found = maps_from_spectra(scan, ["Ti", "Mn", "Fe", "O"])
    for element, (net, error) in found.totals.items():
        share = found.fractions[element]
        assert abs(net - share * drawn[element].sum()) < 4 * error, element


def test_the_error_of_a_total_is_its_spread():
    disc, stripes, _ = simulated.specimen(32)
    pulls = []
    for seed in range(20):
        scan, _ = taken(seed, 0.5, elements=("Ti", "Mn"))
        found = maps_from_spectra(scan, ["Ti", "Mn"], calibrated=True)
        for e, expected in {"Ti": 1.5 * disc.sum(), "Mn": stripes.sum()}.items():
            net, error = found.totals[e]
            pulls.append((net - found.fractions[e] * expected) / error)
    assert 0.65 < np.std(pulls) < 1.35  # of 40: three standard deviations


def test_overlapping_lines_are_told_apart():
    """Mn K-beta lies in the window of Fe: without the fit 10 % of Mn would be iron."""
    scan, drawn = taken(1, 60, elements=("Mn",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = maps_from_spectra(scan, ["Mn", "Fe"])
    inside = found.maps["Fe"].sum()
    assert inside > 0.05 * drawn["Mn"].sum()
    assert abs(found.totals["Fe"][0]) < 0.12 * inside


def test_lines_that_nobody_asked_for_do_not_spoil_the_others():
    scan, drawn = taken(2, 60, elements=("Ti", "O", "Pd"))
    found = maps_from_spectra(scan, ["Ti", "O"])
    assert any("Pd_La" in peak for peak in found.unexplained)
    net, _ = found.totals["Ti"]
    assert net / found.fractions["Ti"] == pytest.approx(drawn["Ti"].sum(), rel=0.01)
    assert not any("Pd" in p for p in maps_from_spectra(scan, ["Ti"], others=["Pd"]).unexplained)


def test_an_element_that_is_not_there_has_no_counts():
    scan, _ = taken(3, 20, elements=("Ti", "O"))
    net, error = maps_from_spectra(scan, ["Ti", "Mn"]).totals["Mn"]
    assert abs(net) < 4 * error


# ---- counts stay counts


def test_maps_are_the_counts_of_their_windows():
    scan, _ = taken(0, 5)
    found = maps_from_spectra(scan, ["Ti", "Mn", "O"])
    for e, (low, high) in found.windows.items():
        inside = (found.energies > low) & (found.energies < high)
        assert found.maps[e].dtype.kind == "i"
        assert np.array_equal(found.maps[e], scan.spectra[..., inside].sum(-1))
        assert found.background[e].min() >= 0
        assert np.allclose(found.net[e] + found.background[e], found.maps[e])
        assert found.net[e].sum() == pytest.approx(found.totals[e][0], rel=1e-9)


def test_the_background_follows_the_specimen():
    """Continuum and Mn K-beta under iron are where the disc and the stripes are, not everywhere."""
    scan, drawn = taken(0, 200)
    found = maps_from_spectra(scan, ["Ti", "Mn", "Fe"])
    disc, stripes, _ = simulated.specimen(32)
    under = found.background["Fe"]
    both, neither = (disc > 0) & (stripes > 0), (disc == 0) & (stripes == 0)
    assert under[both].mean() > 2 * under[neither].mean()
    share = found.fractions["Fe"]
    for where in (both, (disc > 0) & (stripes == 0)):
        expected = share * drawn["Fe"][where].sum()
        assert found.net["Fe"][where].sum() == pytest.approx(expected, rel=0.03)


def test_the_fit_adds_up_to_the_spectrum():
    scan, _ = taken(0, 20)
    found = maps_from_spectra(scan, ["Ti", "Mn", "Fe", "O"])
    seen = found.energies > 0.3
    whole = np.sum(list(found.fit.values()), axis=0)
    assert whole[seen].sum() == pytest.approx(found.spectrum[seen].sum(), rel=0.005)
    assert np.array_equal(found.spectrum, scan.spectra.sum((0, 1)))


def test_own_windows_and_a_trusted_axis():
    scan, _ = taken(0, 5)
    found = maps_from_spectra(scan, ["Ti"], windows={"Ti": (4.4, 4.6)}, calibrated=True)
    assert (found.offset, found.gain) == (0, 1)
    assert np.array_equal(found.maps["Ti"], scan.spectra[..., 440:460].sum(-1))


@pytest.mark.parametrize("kind", ["npz", "h5", "first"])
def test_a_file_gives_the_same_maps_as_its_array(tmp_path, kind):
    scan, _ = taken(0, 2)
    cube = np.moveaxis(scan.spectra, -1, 0) if kind == "first" else scan.spectra
    tree = {"EDX": cube, "energies": AXIS, "HAADF": np.ones((32, 32))}
    if kind == "npz":
        np.savez(tmp_path / "a.npz", **tree)
    else:
        io.save_h5(tmp_path / "a.h5", tree)
    loaded = read(tmp_path / ("a.npz" if kind == "npz" else "a.h5"))
    here, there = (maps_from_spectra(s, ["Ti", "O"]) for s in (scan, loaded))
    assert all(np.array_equal(here.maps[e], there.maps[e]) for e in here.maps)


def test_spectra_on_disk_never_come_into_memory_at_once(tmp_path):
    """A cube of 128 MB: the counting needs less than that, block by block."""
    import h5py

    shape = (128, 128, 4096)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["energies"] = 0.005 * np.arange(4096)
        data = file.create_dataset("EDX", shape, "u2", chunks=(8, 128, 4096), fillvalue=0)
        for k in range(0, 128, 8):
            block = np.zeros((8, 128, 4096), np.uint16)
            block[..., 895:910] = 1 + k // 64
            data[k : k + 8] = block
    scan = read(tmp_path / "a.h5")
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = maps_from_spectra(scan, ["Ti"], calibrated=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.maps["Ti"].sum() > 0
    # blocks of at most 128 MB as floats, twice; the whole cube as floats is 512 MB
    assert peak < 400e6


def test_measured_spectra(measured):
    found = maps_from_spectra(read(measured), ["Pd", "Ti", "O"])
    assert abs(found.offset) < 0.02 and abs(found.gain - 1) < 0.003
    assert found.lines == {"Pd": "Pd_La", "Ti": "Ti_Ka", "O": "O_Ka"}
    assert found.maps["Ti"].sum() == pytest.approx(2700, rel=0.05)
    assert 30 < found.totals["Pd"][0] < 120
    assert found.totals["Ti"][0] == pytest.approx(2680, rel=0.03)


# ---- energy losses


def losses(seed, dose=1.0, size=24):
    """Mn and Co edges on a power law, in counts; thickness and amounts vary."""
    rng = np.random.default_rng(seed)
    e = 500 + 1.0 * np.arange(500)
    y, _ = np.mgrid[:size, :size] / size
    thickness, amount = 0.5 + y, (y > 0.5).astype(float)
    edge = 3.0 * ((e >= 640) & (e < 900)) * (e / 640) ** -3.5
    tail = 40 * (e / 500) ** -3.0
    expected = dose * (thickness[..., None] * tail + amount[..., None] * edge)
    inside = (e >= 640) & (e < 690)
    truth = dose * amount * edge[inside].sum()
    return scan_of(rng.poisson(expected).astype(np.uint16), e, energy_unit="eV"), truth


@pytest.mark.parametrize("dose", [0.03, 1])
def test_edges_are_counted_above_one_power_law(dose):
    scan, truth = losses(0, dose)
    found = maps_from_spectra(scan, ["Mn"])
    assert found.lines == {"Mn": "Mn_L"} and found.windows["Mn"] == (640, 690)
    assert np.allclose(found.net["Mn"] + found.background["Mn"], found.maps["Mn"])
    net, error = found.totals["Mn"]
    assert net == pytest.approx(truth.sum(), abs=4 * error)
    assert error < 0.5 * truth.sum()
    assert found.maps["Mn"].dtype.kind == "i"
    empty = found.net["Mn"][truth == 0].sum()
    assert abs(empty) < 0.1 * truth.sum() + 4 * error


def test_own_windows_of_an_edge():
    scan, truth = losses(1)
    windows = {"Mn": ((560, 630), (640, 690))}
    net, error = maps_from_spectra(scan, ["Mn"], windows=windows).totals["Mn"]
    assert net == pytest.approx(truth.sum(), abs=4 * error)
    assert error < 0.1 * truth.sum()


# ---- what cannot be counted


@pytest.mark.parametrize(
    "elements, options, words",
    [
        ("Ti", {}, "give a list"),
        ([], {}, "is empty"),
        (["Ti", "Ti_Ka"], {}, "Ti more than once"),
        (["Xx"], {}, "unknown element"),
        ([22], {}, "give a symbol"),
        (["Dy_Ka"], {}, "energies run from"),
        (["Ti_Kb"], {}, "no line to count"),
        (["H"], {}, "no x-ray line"),
        (["Ti"], {"windows": {"O": (0.4, 0.6)}}, "not among the elements"),
        (["Ti"], {"windows": {"Ti": (4.6, 4.4)}}, "low must be below high"),
        (["Ti"], {"windows": {"Ti": 4.5}}, "two energies"),
        (["Ti"], {"windows": {"Ti": (14.4, 14.6)}}, "holds 0 channels"),
        (["Ti"], {"resolution": 130}, "width in keV"),
    ],
)
def test_questions_that_make_no_sense_are_named(elements, options, words):
    scan, _ = taken(0, 0.05, elements=("Ti",))
    with pytest.raises(ValueError, match=words):
        maps_from_spectra(scan, elements, **options)


@pytest.mark.parametrize(
    "cube, energies, words",
    [
        (None, None, "no spectra"),
        (np.zeros((4, 4, 1000)), AXIS, "hold no counts"),
        (np.full((4, 4, 1000), np.nan), AXIS, "NaN"),
        (np.full((4, 4, 1000), -1.0), AXIS, "negative"),
        (np.ones((1000, 4, 4)), AXIS, "move the energy axis"),
        (np.ones((4, 4, 1000)), AXIS[::-1], "rise"),
        (np.ones((4, 4, 5)), AXIS[:5], "too few"),
    ],
)
def test_spectra_that_hold_no_counts_are_named(cube, energies, words):
    with pytest.raises(ValueError, match=words):
        maps_from_spectra(scan_of(cube, energies), ["Ti"])


def test_a_scan_is_asked_for():
    with pytest.raises(ValueError, match="what helpers.fusion.read returns"):
        maps_from_spectra(np.ones((4, 4, 1000)), ["Ti"])


def test_an_edge_that_is_not_on_the_axis():
    scan, _ = losses(0)
    with pytest.raises(ValueError, match="no edge of Fe_K lies between"):
        maps_from_spectra(scan, ["Fe_K"])
    with pytest.raises(ValueError, match="too near to the end"):
        maps_from_spectra(scan_of(scan.spectra, scan.energies + 135, energy_unit="eV"), ["Mn"])
    with pytest.raises(ValueError, match="give .*fit_low"):
        maps_from_spectra(scan, ["Mn"], windows={"Mn": (640, 690)})


def test_elements_that_cannot_be_told_apart_are_said():
    """Sulphur K-alpha, molybdenum L-alpha and lead M-alpha lie within 50 eV."""
    rng = np.random.default_rng(0)
    line = np.exp(-0.5 * ((AXIS - 2.30) / 0.04) ** 2)
    cube = rng.poisson(2e-3 + line / line.sum(), (16, 16, 1000))
    with pytest.warns(UserWarning, match="cannot be told"):
        maps_from_spectra(scan_of(cube), ["S", "Mo", "Pb_Ma"])


# ---- the table


@pytest.mark.parametrize(
    "name, energy",
    # J. A. Bearden, Rev. Mod. Phys. 39, 78 (1967)
    [("C_K", 0.277), ("O_K", 0.5249), ("Si_K", 1.73998), ("Ti_K", 4.51084), ("Mn_K", 5.89875),
     ("Cu_K", 8.04778), ("Pd_L", 2.83861), ("Ba_L", 4.46626), ("Dy_L", 6.4952), ("Pb_L", 10.5515),
     ("Au_M", 2.1229), ("Cu_L", 0.9297)],
)  # fmt: skip
def test_energies_of_the_table(name, energy):
    symbol, _, shell = name.partition("_")
    found = table()[symbol][shell]
    assert found.main == pytest.approx(energy, abs=0.002)
    assert found.weights.sum() == pytest.approx(1)


def test_shares_of_k_beta():
    """Measured ratios of K-beta to K-alpha: J. H. Scofield, Phys. Rev. A 9, 1041 (1974)."""
    for symbol, ratio in {"Ti": 0.1355, "Fe": 0.1391, "Cu": 0.1379, "Ag": 0.2101}.items():
        shell = table()[symbol]["K"]
        beta = shell.energies > 1.04 * shell.main
        assert shell.weights[beta].sum() / shell.weights[~beta].sum() == pytest.approx(
            ratio, rel=0.12
        )


def test_the_table_is_the_one_of_xraylib():
    xraylib = pytest.importorskip("xraylib")
    for symbol in ("Al", "Fe", "Zr", "W"):
        z = xraylib.SymbolToAtomicNumber(symbol)
        energy = xraylib.LineEnergy(z, xraylib.KL3_LINE)
        assert table()[symbol]["K"].main == pytest.approx(energy, abs=0.002)


def test_the_line_of_an_element_depends_on_the_axis():
    assert choose_line("Pd", 0.1, 20) == ("Pd", "L")
    assert choose_line("Pd", 0.1, 40) == ("Pd", "L")
    assert choose_line("Pd_Ka", 0.1, 40) == ("Pd", "K")
    assert choose_line("Ti", 0.1, 20) == ("Ti", "K")
    assert choose_line("Ti", 0.1, 4) == ("Ti", "L")
    assert "Cu_Ka" in candidates(8.05, 0.03)
