"""A labelled array in, labelled arrays out: the pixel size is not typed again."""

import numpy as np
import pytest

from helpers import fusion
from helpers.io import load_tif, save_tif
from helpers.renderer.denoise import denoise

xarray = pytest.importorskip("xarray")


def labelled(image, axes, step, unit):
    coords = {
        a: (a, step * np.arange(n), {"units": unit})
        for a, n in zip(axes, image.shape, strict=True)
        if a in "yx"
    }
    return xarray.DataArray(image, coords, tuple(axes), attrs={"run": 7})


def test_fused_maps_have_the_coordinates_of_the_haadf(tmp_path):
    data = fusion.simulate("dysco3", counts=2, seed=0, size=24)
    haadf, maps = fusion.normalize(data.haadf, data.maps)
    image = labelled(np.asarray(haadf), "yx", 0.08, "nm")
    options = {"n_iter": 3, "device": "cpu"}
    result = fusion.fuse(image, maps, **options)
    plain = fusion.fuse(image.values, maps, **options)
    assert isinstance(plain.maps["Dy"], np.ndarray)
    for name, found in result.maps.items():
        xarray.testing.assert_identical(found, image.copy(data=plain.maps[name]))
    result.save(tmp_path / "out")
    tif = load_tif(tmp_path / "out" / "Dy.tif")
    assert (tif.pixel_size, tif.unit) == (0.08, "nm")
    np.testing.assert_array_equal(fusion.Fusion.load(tmp_path / "out").maps["Dy"], tif.image)


def test_denoised_images_keep_their_coordinates(tmp_path):
    noisy = np.random.default_rng(0).poisson(40, (2, 24, 24)).astype("float32")
    images = labelled(noisy, "tyx", 0.1, "µm")
    result = denoise(images, n_steps=2, width=4, device="cpu")
    plain = denoise(noisy, n_steps=2, width=4, device="cpu")
    xarray.testing.assert_identical(result.images, images.copy(data=plain.images))
    assert result.spread.dims == images.dims and result.spread.attrs == {"run": 7}
    with pytest.warns(UserWarning, match="run"):
        save_tif(tmp_path / "a.tif", result.images)
    assert load_tif(tmp_path / "a.tif").pixel_size == 0.1
