"""Tables for people who come from an earlier program: complete on the left, true on the right."""

from __future__ import annotations

import re
import shlex

import pytest

from helpers.jobs import find
from helpers.jobs._command import _parser, names
from tests.book_files import source, toc_pages

# Options of the published program, by its sections; facts of its command line
XFUSION = """
config model_type data_type verbose home train-home inference-home log-home calibration-home
dir-lo-convert dir-hi-convert out-dir-lo out-dir-hi dir-inf out-dir-inf
dir-lo-train dir-hi-train dir-lo-val dir-hi-val opt path-train-meta-info-file
path-val-meta-info-file pretrain_network_g launcher auto-resume local-rank force-yml debug is-train
val_freq interval_list hi_interval_mult poisson_noise_b0_exp drop_path_rate embed_dim scale_depth
scale_mha window_size_spatial resi_connection conv_window_size iter_div_factor num_frame batch_size
initial_lr num_workers warmup_iter dataset_enlarge_ratio sub_dataset sub_dataset_frac
single_epoch_ok profiler_iter_num dataroot_context meta_info_context use_nearest_context
arch-opt lo-frame-sep hi-frame-sep b0 img-class infer-mode model_file machine align_features_ok
adapt_deformable_conv traverse-mode tfm_file meta_file_scale input_dir case_list device
cal_model_file cal_dir cal_id tol_pos tol_area tol_rotation cal_device small mixed_precision
split_encoder flow_iters input_dim window_size
cal_train_name cal_train_stage cal_train_restore_ckpt cal_train_small cal_train_validation
cal_train_input_dim cal_train_lr cal_train_num_steps cal_train_batch_size cal_train_device
cal_train_mixed_precision cal_train_launcher cal_train_iters cal_train_wdecay cal_train_epsilon
cal_train_clip cal_train_dropout cal_train_gamma cal_train_image_root cal_train_meta_info_file
cal_train_window_size cal_train_dataset_enlarge_ratio cal_train_save_path cal_train_dist_url
cal_train_find_unused_parameters cal_train_num_frames cal_train_evaluator_weights
cal_train_flow_weights cal_train_full_weights cal_train_opt_path cal_train_factor
cal_train_num_frame_total cal_train_pixel_size_ratio cal_train_split_encoder
cal_train_poisson_b0_exponent cal_train_scaling_min cal_train_scaling_max cal_train_rotation_min
cal_train_rotation_max cal_train_translation_min cal_train_translation_max
cal_train_mask_valid_for_fusion_ok
""".split()
LIGHT_FIELD = """
flagfile action basedir expname datadir save_dir embeddertype multires multiresZ modeltype no_reload
weights_path sigch compile netdepth netwidth skips postprocessortype datatype centercut
local_normalization N_steps_pre DSfactor N_steps_fine ErMap_update boundary_range N_steps N_epochs
N_steps_seq lrate lrate_decay block_size N_rand add_ssim_loss ssim_loss_weight L1_regu_weight
TV_regu_weight skip chunk render_size render_t_range ROI_Box retain_gray Hdir N_steps_ft lrate_ft
lrate_decay_ft lrate_decay_gamma i_weights i_print shot_when_print i_weights_trans
TRAIN TRAIN-MS TRAIN-DP targets_path H_path H_cuts ssim
""".split()
VERBS = "init convert train train_calibration download calibrate inference".split()
PAGES = [page for page in toc_pages() if "cmx " in source(page)]


def rows(page):
    """Left and middle cells of the tables below the heading about earlier programs."""
    text = source(page).split("## If you come from", 1)[1]
    for line in re.findall(r"^\| .*$", text, re.M):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not set(cells[0]) <= set("- ") and cells[1] != "here":
            yield cells[0], cells[1]


def options(job):
    return {flag for action in _parser(find(job))._actions for flag in action.option_strings}


def commands(text):
    """Calls of the command in inline code and in fences of shell code."""
    inline = re.findall(r"`(cmx [^`]+)`", text)
    fences = re.findall(r"^```bash$(.*?)^```$", text, re.M | re.S)
    lines = [line for fence in fences for line in fence.splitlines()]
    return inline + [line for line in lines if line.startswith("cmx ")]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_book_is_one(page):
    """Jobs, and options of the job, as the parser knows them."""
    for call in commands(source(page)):
        words = shlex.split(call, comments=True)[1:]
        if not words or words[0] in ("doctor", "data", "--help", "JOB", "export-notebooks"):
            continue
        job = words[1] if words[0] == "init" else words[0]
        if words[0] == "run":
            continue
        assert job in names(), call
        for word in words[1:]:
            if word.startswith("--"):
                assert word in options(job) | {"--help"}, call


def test_every_option_of_xfusion_has_a_row():
    left = {word for cell, _ in rows("book/xray/index") for word in re.findall(r"`([^`]+)`", cell)}
    assert not set(XFUSION) - left
    assert {f"xfusion {verb}" for verb in VERBS} <= left


def test_every_option_of_the_light_field_program_has_a_row():
    left = {
        word.removeprefix("main.py --").split()[0]
        for cell, _ in rows("book/inr/index")
        for word in re.findall(r"`([^`]+)`", cell)
    }
    assert not set(LIGHT_FIELD) - left
    assert "a_flag_that_is_not_there" not in left


@pytest.mark.parametrize("page", ["book/xray/index", "book/inr/index"])
def test_what_stands_on_the_right_is_there_or_said_not_to_be(page):
    found = list(rows(page))
    assert len(found) > 20
    for left, right in found:
        assert "`" in right or right in ("none", "not yet", ""), (left, right)


def test_a_wrong_option_would_be_found():
    assert "--n-step" not in options("field") and "--n-steps" in options("field")
    assert commands("`cmx field --n-steps` and\n```bash\ncmx fuse a\n```\n") == [
        "cmx field --n-steps",
        "cmx fuse a",
    ]
