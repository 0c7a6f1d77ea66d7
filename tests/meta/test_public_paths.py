"""Paths that other people's scripts import: they stay, whatever moves behind them."""

from __future__ import annotations

from importlib import import_module

import pytest

PATHS = """
operators: check_adjoint
tv: tv prox_tv
noise: Poisson SCMOS PoissonGauss EMCCD
optics: zernike noll_to_osa Pupil psf_from_pupil
interpolate: spline_prefilter spline_sample fft_shift
io: load_tif save_tif load_h5 save_h5 Stack open_stack save_table load_table
io: load_tilt_angles load_alignment
scale: map_chunks
jobs: find
metrics datasets devices checkpoints plots sliders:
fusion: element_weights haadf_from_maps fuse normalize calibrate_weights choose_lambda explore
fusion: simulate Fusion subtract_power_law subtract_vacuum
fusion.counts: fuse_counts CountFusion bootstrap without_haadf
inr.lightfield: Optics psf LightField richardson_lucy view_enhanced
inr.tomography: ParallelBeam sirt missing_wedge
inr.align: tilts
inr.diffraction: MultiSlice
inr.fields: PositionalEncoding RadialEncoding FeatureGrid HashGrid MLP Field Voxels paper_field
inr.fit: fit fit_sequence reconstruct
inr.meta: reptile shared_decoder
inr.render: render render_sequence
inr.archive: SequenceArchive save load
inr.phantoms: mitochondria microtubules beads worm cells apoferritin
xray: load
xray.simulate: Experiment simulate grid_image
xray.data: convert_reds read_meta_info VirtualPairs ActualPairs select_frames
xray.deform: deform_conv2d
xray.edvr: EDVR
xray.swin: SwinXVR
xray.flowfuse: FlowFuse
xray.flow: FlowNet
xray.calibrate: spatial temporal register
xray.train: train train_calibrator
xray.baselines:
xray.reconstruct: reconstruct Reconstruction
renderer.params: Param
renderer.encoders: ConvEncoder UNet PerImage
renderer.mappers: Direct Centroid Stacked ImageMapper
renderer.feedback:
renderer.model: FitModel
renderer.renderers: Gaussian2D Gaussian3D Template Spline2D Spline3D FourierOptics Convolution
renderer.renderers: Passthrough
renderer.mle: fit crlb
renderer.detect: localize match
renderer.pupil: retrieve retrieve_from_blinks
renderer.train: Trainer
renderer.deconvolve renderer.denoise renderer.simulate renderer.data:
"""
LINES = [line.split(":") for line in PATHS.strip().splitlines()]
NAMES = sorted(
    {(f"helpers.{m}", n) for mods, names in LINES for m in mods.split() for n in names.split()}
)
MODULES = sorted({f"helpers.{m}" for mods, _ in LINES for m in mods.split()})


@pytest.mark.parametrize("module", MODULES)
def test_the_module_imports(module):
    assert import_module(module).__doc__


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_name_is_behind_its_door(module, name):
    face = import_module(module)
    assert name in face.__all__
    assert callable(getattr(face, name))
